"""Pre-training, then fine-tuning and a probe that start from it, on a few small pictures."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

import fastvim
from natural_images.classification.model_files import load_model
from natural_images.errors import NaturalImagesValueError
from natural_images.experiment import load_experiment
from natural_images.masked.finetune import finetune
from natural_images.masked.pretrain import pretrain
from natural_images.masked.probe import probe

CONFIG = Path(__file__).parents[3] / "config" / "mae"
SMALL = [
    *["data.classes=3", "data.size=16", "model.options.embed_dim=16", "model.options.depth=2"],
    *["recipe.epochs=2", "recipe.warmup_epochs=0", "recipe.batch_size=8"],
]
DECODER = ["model.options.decoder_embed_dim=16", "masking.pictures_every=2"]


@pytest.fixture
def experiment(pictures, read_in_threads):
    def load(name, *overrides):
        return load_experiment(CONFIG / name, [*SMALL, f"data.path={pictures}", *overrides])

    return load


def test_pretrain_finetune_probe(experiment, tmp_path):
    folder, run = tmp_path / "mae", tmp_path / "mae_run"
    pretrain(experiment("digits_pretrain.yaml", *DECODER), folder, run)
    assert isinstance(fastvim.from_pretrained(folder), fastvim.FastMaskVim)
    assert json.loads((folder / "pretraining.json").read_text())["mask_ratio"] == 0.75
    names = sorted(path.name for path in (run / "pictures").iterdir())
    assert names == ["epoch_0001.png", "epoch_0002.png"]
    assert list(pd.read_csv(run / "validation.csv").columns) == ["step", "epoch", "loss"]

    start = f"initial={folder}"
    finetune(experiment("digits_finetune.yaml", start), tmp_path / "tuned", tmp_path / "tuned_run")
    tuned, info = load_model(tmp_path / "tuned")
    assert info.classes == ("bars", "dots", "rings")
    assert tuned.options["scaling_factor"] == 0.25

    probed = experiment("digits_probe.yaml", start)
    probe(probed, tmp_path / "probe", tmp_path / "probe_run")
    model, _ = load_model(tmp_path / "probe")
    masked = fastvim.from_pretrained(folder)
    assert torch.equal(model.layers[0].mixer.A_log, masked.layers[0].mixer.A_log)
    assert not torch.equal(model.layers[0].mixer.A_log, tuned.layers[0].mixer.A_log)

    # from other weights it is another run
    with pytest.raises(NaturalImagesValueError, match=r"initial: expected .*, got 'random'"):
        probe(experiment("digits_probe_random.yaml"), tmp_path / "probe", tmp_path / "probe_run")


def test_a_resumed_run_removes_the_same_patches(experiment, tmp_path):
    whole = experiment("digits_pretrain.yaml", *DECODER, "recipe.checkpoint_every_steps=2")
    pretrain(whole, tmp_path / "whole", tmp_path / "whole_run")
    checkpoints = tmp_path / "whole_run" / "checkpoints"
    (checkpoints / "step-00000006.pt").unlink()
    before = fastvim.from_pretrained(tmp_path / "whole").state_dict()
    pretrain(whole, tmp_path / "resumed", tmp_path / "whole_run")
    after = fastvim.from_pretrained(tmp_path / "resumed").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_bad_images_are_left_out_of_the_loss(experiment, pictures, tmp_path):
    # The last image, so that the same patches of the others are removed.
    last = pictures / "val" / "rings" / "3.png"
    last.unlink()
    load = lambda: experiment("digits_pretrain.yaml", *DECODER)  # noqa: E731
    pretrain(load(), tmp_path / "sound", tmp_path / "sound_run")
    last.write_bytes(b"")
    pretrain(load(), tmp_path / "mae", tmp_path / "run")
    curves = [pd.read_csv(tmp_path / run / "validation.csv") for run in ("sound_run", "run")]
    pd.testing.assert_frame_equal(*curves)
    table = pd.read_csv(tmp_path / "run" / "quarantine.csv")
    assert table.values.tolist() == [["val", "rings/3.png", "empty file"]]


def test_refusals(experiment, tmp_path):
    places = tmp_path / "o", tmp_path / "c"
    wrong = experiment("digits_pretrain.yaml", "model.name=fastvim_base_patch16_224")
    with pytest.raises(NaturalImagesValueError, match=r"model: .*decoder_embed_dim"):
        pretrain(wrong, *places)
    odd = experiment("digits_pretrain.yaml", "data.size=18")
    with pytest.raises(NaturalImagesValueError, match="expected a multiple of the patches' 4 px"):
        pretrain(odd, *places)
    averaging = experiment("digits_probe_random.yaml", "recipe.ema_decay=0.9")
    with pytest.raises(NaturalImagesValueError, match=r"recipe.ema_decay: expected none"):
        probe(averaging, *places)
    averaging = experiment("digits_pretrain.yaml", *DECODER, "recipe.ema_decay=0.9")
    with pytest.raises(NaturalImagesValueError, match=r"recipe.ema_decay: expected none"):
        pretrain(averaging, *places)
    for command, name in ((pretrain, "pretrain"), (finetune, "finetune"), (probe, "probe_random")):
        start = ["initial=unread"] if name == "finetune" else []
        with pytest.raises(NaturalImagesValueError, match="expected a folder outside of --output"):
            command(experiment(f"digits_{name}.yaml", *start), tmp_path, tmp_path / "c")
    with pytest.raises(NaturalImagesValueError, match="expected task finetune, got probe"):
        finetune(experiment("digits_probe_random.yaml"), *places)
