import pickle

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from natural_images.classification.images import BadImage, open_images
from natural_images.classification.loader_speed import write_jpegs
from natural_images.errors import NaturalImagesDataError


@pytest.fixture
def folder(tmp_path):
    write_jpegs(tmp_path / "train", copies=3, side_px=48)
    write_jpegs(tmp_path / "val", copies=1, side_px=48)
    return tmp_path


def test_equals_torchvision(folder):
    for split in ("train", "val"):
        ours, theirs = open_images(folder, split=split), ImageFolder(folder / split)
        assert list(ours.classes) == theirs.classes
        assert ours.labels.tolist() == theirs.targets
        assert ours.labels.dtype == np.int64
        for i in (0, len(theirs) - 1):
            assert theirs.samples[i][0] == str(folder / split / ours.name(i))
            np.testing.assert_array_equal(ours.read(i), theirs[i][0])


def test_without_splits_both_are_all(folder):
    for split in ("train", "val"):
        assert len(open_images(folder / "train", split=split)) == 15


def test_validation_folder_may_be_called_validation(folder):
    (folder / "val").rename(folder / "validation")
    assert len(open_images(folder, split="val")) == 5


def test_missing_split_is_an_error(folder):
    (folder / "val").rename(folder / "test")
    with pytest.raises(NaturalImagesDataError, match=r"'val'.*beside 'train'"):
        open_images(folder, split="val")


def test_numbered_folders_are_in_the_order_of_numbers(tmp_path):
    write_jpegs(tmp_path / "set", copies=1, side_px=32)
    picture = next((tmp_path / "set" / "china").iterdir()).read_bytes()
    for number in range(12):
        (tmp_path / "v2" / str(number)).mkdir(parents=True)
        (tmp_path / "v2" / str(number) / "a.jpeg").write_bytes(picture)
    source = open_images(tmp_path / "v2", split="val")
    assert source.classes == tuple(map(str, range(12)))
    assert source.name(10) == "10/a.jpeg"


def test_other_files_are_passed_over(folder):
    train = folder / "train" / "china"
    (train / "Thumbs.db").write_bytes(b"x")
    (train / "._china_0000.JPEG").write_bytes(b"x")
    (folder / "train" / ".cache").mkdir()
    (train / "more").mkdir()
    next(train.glob("*.JPEG")).rename(train / "more" / "ü b.jpg")
    source = open_images(folder)
    assert len(source) == 15
    names = [source.name(i) for i in range(15)]
    assert "china/more/ü b.jpg" in names
    assert source.read(names.index("china/more/ü b.jpg")).mode == "RGB"


def test_empty_class_is_an_error(folder):
    (folder / "train" / "zebra").mkdir()
    with pytest.raises(NaturalImagesDataError, match="zebra"):
        open_images(folder)


def test_pickled_source_reads_the_same_and_vanished_files_are_bad(folder):
    source = open_images(folder)
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.read(4), source.read(4))
    (folder / "train" / source.name(4)).unlink()
    with pytest.raises(BadImage, match="No such file"):
        again.read(4)
