"""Training a classifier: what is written, resumed, and refused."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from natural_images.classification import train as module
from natural_images.classification.model_files import load_model
from natural_images.classification.train import soft_cross_entropy, train
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError
from natural_images.experiment import load_experiment

DIGITS = Path(__file__).parents[3] / "config" / "imagenet" / "digits.yaml"
SMALL = [
    *["data.classes=3", "data.size=16", "model.options.embed_dim=16", "model.options.depth=2"],
    *["recipe.epochs=2", "recipe.warmup_epochs=0", "recipe.batch_size=8"],
    *["recipe.ema_decay=0.5", "recipe.checkpoint_every_steps=2"],
]


@pytest.fixture
def experiment(pictures, read_in_threads):
    return lambda *overrides: load_experiment(DIGITS, [*SMALL, f"data.path={pictures}", *overrides])


def test_interpolation_is_kept_for_evaluation(experiment, tmp_path):
    train(experiment("augment.interpolation=bilinear"), tmp_path / "model", tmp_path / "run")
    assert load_model(tmp_path / "model")[1].interpolation == "bilinear"


def test_train_writes_a_folder_with_averaged_weights(experiment, tmp_path):
    train(experiment(), tmp_path / "model", tmp_path / "run")
    model, info = load_model(tmp_path / "model")
    averaged, _ = load_model(tmp_path / "model", weights="ema")
    assert info.classes == ("bars", "dots", "rings")
    assert (info.size, info.eval_crop, info.mean) == (16, 1.0, (0.5, 0.5, 0.5))
    assert not torch.equal(model.head.weight, averaged.head.weight)
    curves = pd.read_csv(tmp_path / "run" / "validation.csv")
    assert list(curves.columns) == ["step", "epoch", "loss", "top1", "ema_loss", "ema_top1"]
    assert list(curves["epoch"]) == [1, 2]


def test_a_timm_model_is_trained_alike(experiment, tmp_path):
    options = ["model.options.num_heads=2", "model.name=vit_tiny_patch16_224"]
    train(experiment(*options), tmp_path / "model", tmp_path / "run")
    model, info = load_model(tmp_path / "model")
    assert type(model).__name__ == "VisionTransformer"
    assert info.architecture == "vit_tiny_patch16_224"
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_args"]["depth"] == 2


def test_a_killed_run_ends_with_the_same_weights(experiment, tmp_path, monkeypatch):
    mixing = ("augment.mixup=0.8", "augment.cutmix=1.0", "augment.erase_probability=0.5")
    train(experiment(*mixing), tmp_path / "whole", tmp_path / "whole_run")

    class Killed(Exception):  # noqa: N818
        pass

    steps = []

    def dies(model, batch):
        if len(steps) == 3:
            raise Killed
        steps.append(1)
        return soft_cross_entropy(model, batch)

    with monkeypatch.context() as patched:
        patched.setattr(module, "soft_cross_entropy", dies)
        with pytest.raises(Killed):
            train(experiment(*mixing), tmp_path / "resumed", tmp_path / "run")
    train(experiment(*mixing), tmp_path / "resumed", tmp_path / "run")
    for name in ("model.safetensors", "ema.safetensors"):
        whole, resumed = (load_file(tmp_path / each / name) for each in ("whole", "resumed"))
        assert all(torch.equal(whole[key], resumed[key]) for key in whole), name


def test_another_model_does_not_resume(experiment, tmp_path):
    train(experiment(), tmp_path / "model", tmp_path / "run")
    with pytest.raises(NaturalImagesValueError, match=r"digits.yaml: .*belongs to another run"):
        train(experiment("augment.label_smoothing=0.2"), tmp_path / "model", tmp_path / "run")


def test_wrong_classes_and_models(experiment, tmp_path):
    with pytest.raises(NaturalImagesDataError, match="expected 5 classes"):
        train(experiment("data.classes=5"), tmp_path / "model", tmp_path / "run")
    with pytest.raises(NaturalImagesValueError, match="fastvim_tinny"):
        train(experiment("model.name=fastvim_tinny"), tmp_path / "model", tmp_path / "run")
    with pytest.raises(NaturalImagesValueError, match=r"size: .*one patch of FastVim, 4 px, got 2"):
        train(experiment("data.size=2"), tmp_path / "model", tmp_path / "run")
    with pytest.raises(NaturalImagesValueError, match="expected task supervised, got probe"):
        train(experiment("task=probe", "initial=random"), tmp_path / "model", tmp_path / "run")


def test_a_run_inside_its_own_output(experiment, tmp_path):
    with pytest.raises(NaturalImagesValueError, match="expected a folder outside of --output"):
        train(experiment(), tmp_path / "model", tmp_path / "model" / "run")


def test_odd_batches_are_refused_before_anything_is_written(experiment, tmp_path):
    mixing = ("augment.mixup=0.8", "recipe.epochs=1")
    places = tmp_path / "model", tmp_path / "run"
    with pytest.raises(NaturalImagesValueError, match=r"recipe.batch_size: .*even.*got 7 .*Take 8"):
        train(experiment(*mixing, "recipe.batch_size=7"), *places)
    assert not places[1].exists()
    train(experiment(*mixing, "recipe.batch_size=6", "data.images_at_once=3"), *places)
    assert load_model(places[0])


def test_bad_images_are_named_and_not_validated(experiment, pictures, tmp_path, caplog):
    (pictures / "val" / "bars" / "0.png").unlink()
    train(experiment(), tmp_path / "sound", tmp_path / "sound_run")
    assert not (tmp_path / "sound_run" / "quarantine.csv").exists()
    (pictures / "val" / "bars" / "0.png").write_bytes(b"")
    train(experiment(), tmp_path / "model", tmp_path / "run")
    curves = [pd.read_csv(tmp_path / run / "validation.csv") for run in ("sound_run", "run")]
    pd.testing.assert_frame_equal(*curves, rtol=1e-5)

    (pictures / "train" / "dots" / "3.png").write_text("<html>, 404")
    train(experiment(), tmp_path / "another", tmp_path / "another_run")
    table = pd.read_csv(tmp_path / "another_run" / "quarantine.csv")
    assert sorted(table.values.tolist()) == [
        ["train", "dots/3.png", "not an image file"],
        ["val", "bars/0.png", "empty file"],
    ]
    assert caplog.text.count("dots/3.png: not an image file") == 1
    assert f"2 images of this run could not be decoded: {tmp_path / 'another_run'}" in caplog.text


def test_loss_of_hard_targets_is_the_cross_entropy():
    torch.manual_seed(0)
    model, classes = torch.nn.Linear(4, 3), torch.tensor([0, 2])
    batch = {"images": torch.randn(2, 4), "targets": torch.eye(3)[classes]}
    loss, metrics = soft_cross_entropy(model, batch)
    expected = torch.nn.functional.cross_entropy(model(batch["images"]), classes)
    torch.testing.assert_close(loss, expected)
    assert 0 <= metrics["accuracy"] <= 1
