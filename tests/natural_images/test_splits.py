"""The two splits of an experiment, and what makes a run this one."""

import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from natural_images.classification.images import open_images
from natural_images.errors import NaturalImagesDataError
from natural_images.experiment import load_experiment
from natural_images.splits import identity, open_splits

DIGITS = Path(__file__).parents[2] / "config" / "imagenet" / "digits.yaml"


@pytest.fixture
def experiment(read_in_threads):
    return lambda path: load_experiment(DIGITS, ["data.classes=null", f"data.path={path}"])


def test_the_same_images_in_both_splits(experiment, pictures):
    assert len(open_images(pictures / "train", split="val")) == 24, "a folder may have no splits"
    with pytest.raises(NaturalImagesDataError, match=r"the same 24 for both.*val/<class>") as error:
        open_splits(experiment(pictures / "train"))
    assert str(pictures / "train") in str(error.value)


def test_a_link_to_the_same_images(experiment, pictures, tmp_path):
    (tmp_path / "linked").mkdir()
    for part in ("train", "val"):
        (tmp_path / "linked" / part).symlink_to(pictures / "train")
    with pytest.raises(NaturalImagesDataError, match="the same 24 for both"):
        open_splits(experiment(tmp_path / "linked"))


def test_shards_whose_names_tell_no_split(experiment, pictures, tmp_path):
    label = tmp_path / "label"
    label.write_text("0")
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "shard-0.tar", "w") as tar:
        tar.add(pictures / "train" / "dots" / "0.png", "a.png")
        tar.add(label, "a.cls")
    with pytest.raises(NaturalImagesDataError, match="the same 1 for both"):
        open_splits(experiment(tmp_path / "shards"))


def test_other_classes_in_validation(experiment, pictures):
    (pictures / "val" / "dots").rename(pictures / "val" / "dashes")
    with pytest.raises(NaturalImagesDataError, match=r"3 and 3: \['dashes', 'dots'\]"):
        open_splits(experiment(pictures))


def test_identity_tells_images_and_positions_apart(experiment, pictures):
    ours = experiment(pictures)
    before = identity(ours, open_splits(ours))
    assert identity(ours, open_splits(ours)) == before
    shifted = replace(ours, shifted_positions=True)
    assert identity(shifted, open_splits(shifted)) != before
    # As many images of every class, but not the same.
    (pictures / "train" / "dots" / "3.png").rename(pictures / "train" / "dots" / "30.png")
    assert identity(ours, open_splits(ours))["images"] != before["images"]
