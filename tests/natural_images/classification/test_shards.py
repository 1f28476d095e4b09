"""WebDataset and Parquet, written as `webdataset` and `datasets` write them."""

import io
import json
import pickle
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from natural_images.classification import parquet
from natural_images.classification.images import BadImage, open_images
from natural_images.classification.loader_speed import photographs
from natural_images.errors import NaturalImagesDataError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def jpegs() -> list[bytes]:
    """Nine photographs, all different."""
    encoded = []
    for _, pixels in photographs():
        for step in (8, 10):
            buffer = io.BytesIO()
            Image.fromarray(pixels[::step, ::step]).save(buffer, "JPEG")
            encoded.append(buffer.getvalue())
    return encoded[:9]


def check(source, jpegs, labels):
    assert len(source) == len(jpegs)
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == list(labels)
    for i in (0, 3, len(jpegs) - 1, 1):
        expected = np.asarray(Image.open(io.BytesIO(jpegs[i])).convert("RGB"))
        np.testing.assert_array_equal(source.read(i), expected)
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.read(2), source.read(2))


def write_tars(folder, jpegs, *, name="shard-{:06d}.tar", labels=None, label="cls"):
    folder.mkdir(parents=True, exist_ok=True)
    labels = [i % 3 for i in range(len(jpegs))] if labels is None else labels
    for shard in range(3):
        with tarfile.open(folder / name.format(shard), "w") as tar:
            for i in range(3 * shard, min(3 * shard + 3, len(jpegs))):
                # Keys repeat from shard to shard, and have further files.
                key = f"n{i % 3}/image_{i % 3}"
                content = {"json": b"{}", "jpg": jpegs[i], label: str(labels[i]).encode()}
                for suffix, data in content.items():
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("below", [".", "train", "data"])
def test_webdataset(tmp_path, jpegs, below):
    write_tars(tmp_path / below, jpegs)
    source = open_images(tmp_path, classes=3)
    check(source, jpegs, [0, 1, 2] * 3)
    assert source.classes == ("0", "1", "2")
    assert source.name(4) == "shard-000001.tar/n1/image_1.jpg"


def test_names_tell_splits_apart(tmp_path, jpegs):
    write_tars(tmp_path, jpegs, name="imagenet1k-train-{:04d}.tar")
    write_tars(tmp_path, jpegs[:6], name="imagenet1k-validation-{:04d}.tar")
    assert len(open_images(tmp_path, split="train")) == 9
    assert len(open_images(tmp_path, split="val")) == 6


def test_shards_of_the_other_split_alone(tmp_path, jpegs):
    write_tars(tmp_path, jpegs, name="imagenet1k-train-{:04d}.tar")
    with pytest.raises(NaturalImagesDataError, match=r"shards of 'val'.*train-0000"):
        open_images(tmp_path, split="val")


def test_image_without_label(tmp_path, jpegs):
    write_tars(tmp_path, jpegs, label="txt")
    with pytest.raises(NaturalImagesDataError, match=r"n0/image_0.cls beside.*3 of 3"):
        open_images(tmp_path)


def test_label_that_is_no_number(tmp_path, jpegs):
    write_tars(tmp_path, jpegs, labels=["cat"] * 9)
    with pytest.raises(NaturalImagesDataError, match=r"the number of a class, got b'cat'"):
        open_images(tmp_path)


@pytest.mark.parametrize("wrong", [-1, 7])
def test_label_out_of_range(tmp_path, jpegs, wrong):
    write_tars(tmp_path, jpegs, labels=[0, 1, 2] * 2 + [0, 1, wrong])
    with pytest.raises(NaturalImagesDataError, match=rf"from 0 to 2 for 3 classes.*{wrong}"):
        open_images(tmp_path, classes=3)


def test_training_classes_without_images(tmp_path, jpegs):
    write_tars(tmp_path / "train", jpegs)
    write_tars(tmp_path / "val", jpegs[:2])
    with pytest.raises(NaturalImagesDataError, match="expected 5 classes in 'train', got 3"):
        open_images(tmp_path, classes=5)
    # A part of the validation images is still of as many classes.
    assert open_images(tmp_path, split="val", classes=3).classes == ("0", "1", "2")


def write_parquet(folder, jpegs, *, labels=None, names=("ant", "bee", "cow"), rows=2, paths=True):
    folder.mkdir(parents=True, exist_ok=True)
    labels = [i % 3 for i in range(len(jpegs))] if labels is None else labels
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(names), "_type": "ClassLabel"} if names else {"_type": "Value"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for shard in range(2):
        part = slice(5 * shard, 5 * shard + 5)
        images = [
            {"bytes": data, "path": f"n{i}.JPEG" if paths else None}
            for i, data in list(enumerate(jpegs))[part]
        ]
        table = pa.table(
            {"image": pa.array(images, kind), "label": pa.array(labels[part], pa.int64())}
        )
        pq.write_table(
            table.replace_schema_metadata(metadata),
            folder / f"train-{shard:05d}-of-00002.parquet",
            row_group_size=rows,
        )


@pytest.mark.parametrize("below", [".", "data", "train"])
@pytest.mark.parametrize("rows", [1, 2, 100])
def test_parquet(tmp_path, jpegs, below, rows):
    write_parquet(tmp_path / below, jpegs, rows=rows)
    source = open_images(tmp_path, classes=3)
    check(source, jpegs, [0, 1, 2] * 3)
    assert source.classes == ("ant", "bee", "cow")
    assert source.name(4) == "n4.JPEG"
    assert isinstance(source, parquet.ParquetImages)


def test_parquet_without_names(tmp_path, jpegs):
    write_parquet(tmp_path, jpegs, names=None, paths=False)
    source = open_images(tmp_path, classes=3)
    assert source.classes == ("0", "1", "2")
    assert source.name(6) == "train-00001-of-00002.parquet/1"


def test_parquet_with_wrong_classes(tmp_path, jpegs):
    write_parquet(tmp_path / "a", jpegs)
    with pytest.raises(NaturalImagesDataError, match="expected 10 classes in 'train', got 3"):
        open_images(tmp_path / "a", classes=10)
    write_parquet(tmp_path / "b", jpegs, labels=[-1] * 9)
    with pytest.raises(NaturalImagesDataError, match=r"from 0 to 2.*got -1 to -1"):
        open_images(tmp_path / "b")


def test_damaged_parquet(tmp_path, jpegs):
    write_parquet(tmp_path, jpegs)
    file = tmp_path / "train-00001-of-00002.parquet"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(NaturalImagesDataError, match=r"train-00001.*Download it again"):
        open_images(tmp_path)


def test_parquet_of_other_columns(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "train.parquet")
    with pytest.raises(NaturalImagesDataError, match=r"'image'.*got \['text: string'\]"):
        open_images(tmp_path)


def test_bad_image_in_parquet(tmp_path, jpegs):
    write_parquet(tmp_path, [jpegs[0], jpegs[1][:300], None])
    source = open_images(tmp_path)
    for index, reason in ((1, "(?i)truncated"), (2, "empty")):
        with pytest.raises(BadImage, match=reason):
            source.read(index)


def test_large_row_groups_are_warned_of(tmp_path, jpegs, monkeypatch, caplog):
    monkeypatch.setattr(parquet, "LARGE_ROW_GROUP", 100)
    write_parquet(tmp_path, jpegs, rows=3)
    open_images(tmp_path)
    assert "row groups of a hundred images" in caplog.text
