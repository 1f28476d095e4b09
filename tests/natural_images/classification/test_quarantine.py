from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from natural_images.classification.images import open_images
from natural_images.classification.loader_speed import write_jpegs
from natural_images.classification.quarantine import RunQuarantine, check_images, good_indices
from natural_images.errors import NaturalImagesDataError


@pytest.fixture
def folder(tmp_path):
    write_jpegs(tmp_path / "images", copies=2, side_px=64)
    return tmp_path / "images"


def spoil(folder):
    truncated = folder / "china" / "china_0001.JPEG"
    data = truncated.read_bytes()
    truncated.write_bytes(data[: len(data) * 2 // 3])
    (folder / "coffee" / "coffee_0000.JPEG").write_text("<html>, 404")
    # Of a kind that is read, not bad.
    Image.open(folder / "flower" / "flower_0000.JPEG").convert("CMYK").save(
        folder / "flower" / "flower_0000.JPEG"
    )


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_bad_images_are_listed(folder, tmp_path, workers):
    spoil(folder)
    source, output = open_images(folder), tmp_path / "tables" / "quarantine.csv"
    good = check_images(source, output, workers)
    assert good.dtype == np.int64
    assert len(good) == 8
    table = pd.read_csv(output)
    assert table.columns.tolist() == ["name", "reason"]
    assert table.name.tolist() == ["china/china_0001.JPEG", "coffee/coffee_0000.JPEG"]
    assert "truncated" in table.reason[0]
    assert table.reason[1] == "not an image file"
    np.testing.assert_array_equal(good_indices(source, output), good)


def test_nothing_bad(folder, tmp_path):
    source, output = open_images(folder), tmp_path / "quarantine.csv"
    np.testing.assert_array_equal(check_images(source, output), np.arange(10))
    assert output.read_text() == "name,reason\n"
    np.testing.assert_array_equal(good_indices(source, output), np.arange(10))
    np.testing.assert_array_equal(good_indices(source, None), np.arange(10))


def test_all_bad_is_an_error_and_the_table_is_there(folder, tmp_path):
    for file in folder.glob("*/*"):
        file.write_bytes(b"")
    output = tmp_path / "quarantine.csv"
    with pytest.raises(NaturalImagesDataError, match=r"none of 10 images.*empty file"):
        check_images(open_images(folder), output)
    assert len(pd.read_csv(output)) == 10


def test_table_of_other_images(folder, tmp_path):
    spoil(folder)
    output = tmp_path / "quarantine.csv"
    check_images(open_images(folder), output)
    (folder / "coffee" / "coffee_0000.JPEG").unlink()
    with pytest.raises(NaturalImagesDataError, match=r"expected 2 of the 9 images.*got 1"):
        good_indices(open_images(folder), output)


def test_table_of_another_kind(folder, tmp_path):
    source, output = open_images(folder), tmp_path / "quarantine.csv"
    for text in ("a,b\n1,2\n", ""):
        output.write_text(text)
        with pytest.raises(NaturalImagesDataError, match="natural-images check"):
            good_indices(source, output)
    with pytest.raises(NaturalImagesDataError, match="No such file"):
        good_indices(source, tmp_path / "absent.csv")


NAMES = [f"class, {number}/\udcff.png" for number in range(30)]
"""With a comma, and a byte that is not text."""


def test_threads_that_meet_the_same_images_add_each_once(tmp_path):
    table = RunQuarantine(tmp_path / "run" / "quarantine.csv", "train")
    assert table.total() == 0
    with ThreadPoolExecutor(8) as threads:
        added = list(threads.map(lambda name: table.add(name, 'said "no"'), NAMES * 8))
    assert sum(added) == table.total() == len(NAMES)
    # as objects, since pandas' own strings hold no names that are not UTF-8
    rows = pd.read_csv(table.path, encoding_errors="surrogateescape", dtype=object)
    assert rows.columns.tolist() == ["split", "name", "reason"]
    assert sorted(rows["name"]) == sorted(NAMES)
    assert set(rows["reason"]) == {'said "no"'}


def test_a_process_waits_for_another_and_sees_its_row(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    table = RunQuarantine(tmp_path / "t.csv", "train")
    with ThreadPoolExecutor(1) as thread:
        with table.path.open("ab") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            added = thread.submit(table.add, "a/1.png", "empty file")
            with pytest.raises(TimeoutError):
                added.result(timeout=0.3)
            other.write(b"split,name,reason\ntrain,a/1.png,empty file\n")
        assert added.result(timeout=10) is False
    assert table.total() == 1


def test_splits_of_a_run_share_its_table(tmp_path):
    train, val = (RunQuarantine(tmp_path / "t.csv", split) for split in ("train", "val"))
    assert train.add("a/1.png", "empty file")
    assert val.add("a/1.png", "empty file")
    assert not train.add("a/1.png", "for another reason")
    assert train.add("a/1", "empty file")
    assert train.total() == val.total() == 3


@pytest.mark.parametrize("rest", ["train,b/2.pn", 'train,"b', "split,na"])
def test_half_a_row_that_a_full_disk_left(tmp_path, rest):
    table = RunQuarantine(tmp_path / "t.csv", "train")
    if not rest.startswith("split"):
        table.add("a/1.png", "empty file")
    before = table.total()
    with table.path.open("a") as file:
        file.write(rest)
    assert table.total() == before
    assert table.add("b/2.png", "empty file")
    assert pd.read_csv(table.path)["name"].tolist()[before:] == ["b/2.png"]
