"""Training on crops: what is learnt, what is written, and what wrong options say."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from cellpipe import schema
from cellpipe.crop_store import CELLS_FILE, CropStore, CropWriter
from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.files import write_table
from cellpipe.pixel_statistics import PixelStatistics
from cellpipe.split import Split, split
from cellpipe.train import _samples, _training_statistics, train
from cellpipe.trained_model import TrainedModel

CHANNELS = ("DNA", "ER")
MICRO = {
    "architecture": "fastchannelvim_micro_patch8",
    "model_options": {"depth": 2, "embed_dim": 32, "hcs": False},
    "recipe_options": {
        "epochs": 6,
        "warmup_epochs": 1,
        "batch_size": 16,
        "base_lr": 0.02,
        "num_workers": 1,
    },
}


def draw_plate(folder, plate, channels=CHANNELS, cells=96):
    """Crops of two classes that differ in the brightness of ER and in nothing else."""
    rng = np.random.default_rng(0)
    treated = np.arange(cells) % 2
    bright = {"DNA": np.full(cells, 500.0), "ER": 300.0 + 300.0 * treated, "RNA": np.ones(cells)}
    images = rng.poisson(
        np.stack([bright[name] for name in channels], axis=1)[:, :, None, None],
        (cells, len(channels), 16, 16),
    ).astype(np.uint16)
    wells = [schema.well_name(i % 2, i // 2 % 12) for i in range(cells)]
    table = pd.DataFrame(
        {
            "cell_id": [f"s__b__{plate}__{well}__1__{i + 1}" for i, well in enumerate(wells)],
            schema.SOURCE: "s",
            schema.BATCH: "b",
            schema.PLATE: plate,
            schema.WELL: wells,
            schema.SITE: np.int32(1),
            schema.OBJECT: np.arange(1, cells + 1, dtype=np.int32),
            schema.PERT_NAME: np.where(treated, "alpha", "DMSO"),
            schema.PERT_TYPE: np.where(treated, "trt", "negcon"),
            "edge": False,
            "site_row": np.int32(0),
        }
    )
    path = folder / f"{plate}.crops.zarr"
    writer = CropWriter(path, count=cells, channels=channels, size_px=16, pixel_size_um=0.6)
    writer.append(images)
    writer.close()
    write_table(table, path / CELLS_FILE)
    write_table(table, folder / f"{plate}.cells.parquet")
    return path


@pytest.fixture(scope="module")
def plates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plates")
    # The second plate stores the same channels the other way round.
    stores = [draw_plate(folder, "P1"), draw_plate(folder, "P2", channels=("ER", "DNA"))]
    split([folder / "P1.cells.parquet", folder / "P2.cells.parquet"], output=folder / "split.csv")
    return folder, stores


@pytest.fixture(scope="module")
def trained(plates):
    folder, stores = plates
    train(
        stores,
        split=folder / "split.csv",
        output=folder / "model",
        checkpoints=folder / "run",
        **MICRO,
    )
    return folder


def test_it_learns_and_validates(trained):
    validation = pd.read_csv(trained / "run" / "validation.csv")
    assert validation["accuracy"].iloc[-1] > 0.95
    assert len(validation) == 6


def test_the_model_folder_knows_channels_labels_and_statistics(trained):
    model = TrainedModel.load(trained / "model")
    assert model.preprocessing.channels == CHANNELS
    assert model.preprocessing.labels == ("DMSO", "alpha")
    assert model.preprocessing.split == "well"
    assert model.preprocessing.mean == ()
    assert model.model.num_classes == 2
    described = json.loads((trained / "model" / "cellpipe.json").read_text())
    assert described["pixel_size_um"] == 0.6


def test_channels_are_matched_by_name_across_plates(plates):
    folder, _ = plates
    stores = [CropStore.open(folder / f"{name}.crops.zarr") for name in ("P1", "P2")]
    chosen = Split.read(folder / "split.csv")
    unscaled = PixelStatistics(np.zeros(2), np.ones(2))
    samples = _samples(stores, chosen, "train", unscaled)
    batch = samples.get_batch(np.arange(len(samples)))
    means = batch["crops"].mean(dim=(2, 3))
    assert float((means[:, 0] - 500).abs().max()) < 10
    er_by_class = torch.where(batch["classes"] == 1, 600.0, 300.0)
    assert float((means[:, 1] - er_by_class).abs().max()) < 10
    statistics = _training_statistics(stores, chosen, seed=0)
    pixels = batch["crops"].double().transpose(0, 1).flatten(1)
    np.testing.assert_allclose(statistics.mean, pixels.mean(1), rtol=1e-6)
    np.testing.assert_allclose(statistics.std, pixels.std(1, unbiased=False), rtol=1e-6)


def test_each_plate_is_scaled_by_its_own_pixels(plates, tmp_path):
    folder, stores = plates
    cells = [CropStore.open(store) for store in stores]
    samples = _samples(cells, Split.read(folder / "split.csv"), "train", None)
    for number, store in enumerate(cells):
        rows = np.flatnonzero(samples.where[:, 0] == number)
        scaled = samples.get_batch(rows)["crops"].numpy()
        raw = store.read(samples.where[rows, 1], samples.channels[number])
        own = store.statistics.take(samples.channels[number])
        np.testing.assert_allclose(scaled, own.scale(raw))
        everything = store.array[:].astype(float)
        np.testing.assert_allclose(store.statistics.mean, everything.mean(axis=(0, 2, 3)))
        np.testing.assert_allclose(store.statistics.std, everything.std(axis=(0, 2, 3)))


def test_a_finished_run_is_not_trained_again(trained, plates):
    folder, stores = plates
    before = (folder / "model" / "model.safetensors").read_bytes()
    train(
        stores,
        split=folder / "split.csv",
        output=folder / "model",
        checkpoints=folder / "run",
        **MICRO,
    )
    assert (folder / "model" / "model.safetensors").read_bytes() == before
    assert len(pd.read_csv(folder / "run" / "validation.csv")) == 6


def test_scaling_by_the_training_crops_is_saved(plates, tmp_path):
    folder, stores = plates
    train(
        stores,
        split=folder / "split.csv",
        output=tmp_path / "model",
        checkpoints=tmp_path / "run",
        scale="training",
        **{**MICRO, "recipe_options": {"epochs": 1, "warmup_epochs": 0, "batch_size": 64}},
    )
    preprocessing = TrainedModel.load(tmp_path / "model").preprocessing
    assert preprocessing.mean == pytest.approx([500, 450], rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe_options": {"epoch": 3}}, r"train.recipe: .*'epoch'.*'epochs'"),
        ({"recipe_options": {"epochs": 0}}, r"train.recipe: .*'epochs'.*got 0"),
        ({"augment_options": {"holess": 3}}, r"train.augment: .*'holess'"),
        ({"architecture": "fastchannelvim_mikro"}, r"fastchannelvim_micro_patch8"),
        ({"model_options": {"depht": 2}}, r"train.model.*'depht'"),
        ({"scale": "cell"}, r"train.scale: expected .*'cell'"),
        ({"recipe_options": {"batch_size": 4096}}, r"train: Training data: .*4096"),
    ],
)
def test_wrong_options_are_named(plates, tmp_path, options, message):
    folder, stores = plates
    with pytest.raises(CellpipeValueError, match=message):
        train(
            stores,
            split=folder / "split.csv",
            output=tmp_path / "model",
            checkpoints=tmp_path / "run",
            **{**MICRO, **options},
        )
    assert not (tmp_path / "model").exists()


def test_plates_with_other_channels_are_refused(plates, tmp_path):
    folder, stores = plates
    other = draw_plate(tmp_path, "P3", channels=("DNA", "RNA"))
    with pytest.raises(CellpipeDataError, match=r"expected the channels of .*\['DNA', 'RNA'\]"):
        train(
            [stores[0], other],
            split=folder / "split.csv",
            output=tmp_path / "model",
            checkpoints=tmp_path / "run",
            **MICRO,
        )


@pytest.mark.slow
def test_two_processes_write_one_model(plates, tmp_path):
    """Under a launcher every process runs the command; the weights are those of the whole batch."""
    folder, stores = plates
    options = [
        f"--{k.split('_')[0]}={n}={v}"
        for k in ("model_options", "recipe_options")
        for n, v in MICRO[k].items()
    ]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"),
        *("--no-python", sys.executable, "-c", "from cellpipe.cli import main; main()", "train"),
        *map(str, stores),
        *("--split", folder / "split.csv", "--output", tmp_path / "model"),
        *("--checkpoints", tmp_path / "run", "--architecture", MICRO["architecture"]),
        *options,
    ]
    run = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "run"]
    assert TrainedModel.load(tmp_path / "model").model.num_classes == 2
    assert pd.read_csv(tmp_path / "run" / "validation.csv")["accuracy"].iloc[-1] > 0.9


def test_another_split_or_option_never_resumes_a_run(trained, plates, tmp_path):
    """The same shapes and counts, but other data or another model: the run is refused."""
    folder, stores = plates
    split(
        [folder / "P1.cells.parquet", folder / "P2.cells.parquet"],
        output=tmp_path / "split.csv",
        seed=1,
    )
    other = {**MICRO, "model_options": {**MICRO["model_options"], "collapse_method": "max"}}
    for options, file in ((MICRO, tmp_path / "split.csv"), (other, folder / "split.csv")):
        with pytest.raises(CellpipeValueError, match="another run"):
            train(
                stores,
                split=file,
                output=tmp_path / "model",
                checkpoints=trained / "run",
                **options,
            )
