"""The two splits of an experiment, and what makes a run this one."""

import tarfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from natural_images.classification.images import open_images
from natural_images.errors import NaturalImagesDataError
from natural_images.experiment import load_experiment
from natural_images.splits import ValidationBatches, identity, open_splits

DIGITS = Path(__file__).parents[2] / "config" / "imagenet" / "digits.yaml"


@pytest.fixture
def experiment(read_in_threads):
    return lambda path: load_experiment(DIGITS, ["data.classes=null", f"data.path={path}"])


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def test_the_same_images_in_both_splits(experiment, pictures, run):
    assert len(open_images(pictures / "train", split="val")) == 24, "a folder may have no splits"
    with pytest.raises(NaturalImagesDataError, match=r"the same 24 for both.*val/<class>") as error:
        open_splits(experiment(pictures / "train"), run)
    assert str(pictures / "train") in str(error.value)


def test_a_link_to_the_same_images(experiment, pictures, run, tmp_path):
    (tmp_path / "linked").mkdir()
    for part in ("train", "val"):
        (tmp_path / "linked" / part).symlink_to(pictures / "train")
    with pytest.raises(NaturalImagesDataError, match="the same 24 for both"):
        open_splits(experiment(tmp_path / "linked"), run)


def test_shards_whose_names_tell_no_split(experiment, pictures, run, tmp_path):
    label = tmp_path / "label"
    label.write_text("0")
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "shard-0.tar", "w") as tar:
        tar.add(pictures / "train" / "dots" / "0.png", "a.png")
        tar.add(label, "a.cls")
    with pytest.raises(NaturalImagesDataError, match="the same 1 for both"):
        open_splits(experiment(tmp_path / "shards"), run)


def test_other_classes_in_validation(experiment, pictures, run):
    (pictures / "val" / "dots").rename(pictures / "val" / "dashes")
    with pytest.raises(NaturalImagesDataError, match=r"3 and 3: \['dashes', 'dots'\]"):
        open_splits(experiment(pictures), run)


def test_identity_tells_images_and_positions_apart(experiment, pictures, run):
    ours = experiment(pictures)
    before = identity(ours, open_splits(ours, run))
    assert identity(ours, open_splits(ours, run)) == before
    shifted = replace(ours, shifted_positions=True)
    assert identity(shifted, open_splits(shifted, run)) != before
    # As many images of every class, but not the same.
    (pictures / "train" / "dots" / "3.png").rename(pictures / "train" / "dots" / "30.png")
    assert identity(ours, open_splits(ours, run))["images"] != before["images"]


def spoil(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"damaged")


def test_validation_leaves_bad_images_out_and_says_how_many(experiment, pictures, run, caplog):
    spoil(pictures / "val", "dots/1.png", *(f"bars/{n}.png" for n in range(4)))
    ours = replace(experiment(pictures), data=replace(experiment(pictures).data, images_at_once=4))
    validation = ValidationBatches(ours, open_splits(ours, run).val)
    for _ in range(2):
        batches = list(validation.on(torch.device("cpu")))
        # No batch is left of the bars.
        assert [batch["classes"].tolist() for batch in batches] == [[1, 1, 1], [2, 2, 2, 2]]
        assert [len(batch["images"]) for batch in batches] == [3, 4]
    told = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 6
    assert told[-1] == f"5 images of this run could not be decoded: {run / 'quarantine.csv'}"
    table = pd.read_csv(run / "quarantine.csv")
    assert table.columns.tolist() == ["split", "name", "reason"]
    assert table["name"].tolist().count("dots/1.png") == 1
    assert set(table["reason"]) == {"not an image file"}


def test_validation_of_bad_images_alone(experiment, pictures, run, monkeypatch):
    spoil(
        pictures / "val", *(file.relative_to(pictures / "val") for file in pictures.glob("val/*/*"))
    )
    ours = experiment(pictures)
    samples = open_splits(ours, run).val
    # As where each of many processes reads too few images to judge.
    monkeypatch.setattr(samples, "_count", lambda *_: None)
    with pytest.raises(
        NaturalImagesDataError, match=rf"^{pictures}: validation .*got 12 of the 12"
    ):
        list(ValidationBatches(ours, samples).on(torch.device("cpu")))


def test_an_image_of_both_splits_has_two_rows(experiment, pictures, run):
    for part in ("train", "val"):
        spoil(pictures / part, "dots/1.png")
    ours = experiment(pictures)
    splits = open_splits(ours, run)
    for samples in (splits.train, splits.val):
        for seed in range(2):
            samples.get_batch(range(len(samples)), seed)
    table = pd.read_csv(run / "quarantine.csv")
    assert table[["split", "name"]].values.tolist() == [
        ["train", "dots/1.png"],
        ["val", "dots/1.png"],
    ]
