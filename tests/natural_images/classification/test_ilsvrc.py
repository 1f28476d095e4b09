"""ILSVRC's own files, made as the real ones are: tars in a tar, and a devkit with meta.mat."""

import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from natural_images.classification.images import open_images
from natural_images.classification.loader_speed import photographs
from natural_images.errors import NaturalImagesDataError

# ILSVRC's numbers of classes are in another order than the WordNet ids.
WNIDS = {1: "n02119789", 2: "n01440764", 3: "n07697537", 4: "n00001740"}
TRUTH = [2, 3, 1, 1, 2, 3, 3]


def jpeg(shade: int) -> bytes:
    """A photograph of which the corner tells which one it is."""
    pixels = next(photographs())[1][::8, ::8].copy()
    pixels[:16, :16] = shade
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def shade(image: Image.Image) -> int:
    return int(np.asarray(image)[4:8, 4:8].mean().round())


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_devkit(folder, *, truth=TRUTH) -> None:
    kinds = [
        ("ILSVRC2012_ID", "f8"),
        ("WNID", "O"),
        ("words", "O"),
        ("gloss", "O"),
        ("num_children", "f8"),
        ("children", "O"),
        ("wordnet_height", "f8"),
        ("num_train_images", "f8"),
    ]
    synsets = np.zeros((len(WNIDS), 1), dtype=kinds)
    for row, (number, wnid) in enumerate(WNIDS.items()):
        # The last one is above the others, and no class.
        children = [1, 2, 3] if row == 3 else []
        synsets[row, 0] = (
            *(number, wnid, f"words {number}", "gloss", len(children)),
            *(np.array(children, float), 0, 1300),
        )
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        data = "ILSVRC2012_devkit_t12/data"
        add(tar, f"{data}/._meta.mat", b"a Mac's file")
        add(tar, f"{data}/meta.mat", meta.getvalue())
        lines = "".join(f"{number}\n" for number in truth)
        add(tar, f"{data}/ILSVRC2012_validation_ground_truth.txt", lines.encode())


@pytest.fixture
def ilsvrc(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "imagenet"
    folder.mkdir()
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as outer:
        for number in (1, 2, 3):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for image in range(3):
                    name = f"{WNIDS[number]}_{image}.JPEG"
                    add(tar, name, jpeg(50 * number + 10 * image))
            add(outer, f"{WNIDS[number]}.tar", inner.getvalue())
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as tar:
        # Members are not in the order of their numbers.
        for number in (3, 1, 2, 7, 5, 4, 6):
            add(tar, f"ILSVRC2012_val_{number:08d}.JPEG", jpeg(30 * number))
    write_devkit(folder)
    return folder


def test_training_tar(ilsvrc):
    source = open_images(ilsvrc, classes=3)
    assert source.classes == ("n01440764", "n02119789", "n07697537")
    assert len(source) == 9
    assert sorted(source.labels.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    numbers = {wnid: number for number, wnid in WNIDS.items()}
    for i in range(9):
        wnid, file = source.name(i).split("/")
        assert source.classes[source.labels[i]] == wnid
        expected = 50 * numbers[wnid] + 10 * int(file.split("_")[1].split(".")[0])
        assert abs(shade(source.read(i)) - expected) < 3


def check_validation(source):
    assert source.classes == ("n01440764", "n02119789", "n07697537")
    assert len(source) == 7
    for i in range(7):
        number = int(source.name(i).removesuffix(".JPEG")[-8:])
        assert abs(shade(source.read(i)) - 30 * number) < 3
        assert source.classes[source.labels[i]] == WNIDS[TRUTH[number - 1]]


def test_validation_tar(ilsvrc):
    check_validation(open_images(ilsvrc, split="val", classes=3))


@pytest.mark.parametrize("name", ["val", "ILSVRC2012_img_val", "."])
def test_unpacked_validation_folder(ilsvrc, name):
    tar = ilsvrc / "ILSVRC2012_img_val.tar"
    with tarfile.open(tar) as content:
        content.extractall(ilsvrc / name, filter="data")
    tar.unlink()
    check_validation(open_images(ilsvrc, split="val", classes=3))


def test_unpacked_devkit(ilsvrc):
    archive = ilsvrc / "ILSVRC2012_devkit_t12.tar.gz"
    with tarfile.open(archive) as tar:
        tar.extractall(ilsvrc, filter="data")
    archive.unlink()
    check_validation(open_images(ilsvrc, split="val", classes=3))


def test_pickled_source_reads_the_same(ilsvrc):
    source = open_images(ilsvrc)
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.read(5), source.read(5))


def test_index_is_kept_until_the_tar_changes(ilsvrc, monkeypatch):
    first = open_images(ilsvrc)
    assert len(list(ilsvrc.glob(".natural_images.*.npz"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", None)
        again = open_images(ilsvrc)
    assert [again.name(i) for i in range(9)] == [first.name(i) for i in range(9)]
    tar = ilsvrc / "ILSVRC2012_img_train.tar"
    os.utime(tar, (1, 1))
    monkeypatch.setattr(tarfile, "open", None)
    with pytest.raises(TypeError):
        open_images(ilsvrc)


def test_index_goes_to_the_cache_where_the_data_cannot_be_written(ilsvrc, tmp_path, monkeypatch):
    from natural_images.classification import tars as module

    real = module.atomic_path

    def refusing(target):
        if target.parent == ilsvrc:
            raise PermissionError(target)
        return real(target)

    monkeypatch.setattr(module, "atomic_path", refusing)
    open_images(ilsvrc)
    assert not list(ilsvrc.glob("*.npz"))
    assert len(list((tmp_path / "cache" / "natural-images").iterdir())) == 1
    monkeypatch.setattr(tarfile, "open", None)
    assert len(open_images(ilsvrc)) == 9


def test_damaged_index_is_made_again(ilsvrc):
    open_images(ilsvrc)
    (index,) = ilsvrc.glob(".natural_images.*.npz")
    index.write_bytes(index.read_bytes()[:100])
    assert len(open_images(ilsvrc)) == 9


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_truncated_tar_is_an_error(ilsvrc, split, keep):
    tar = ilsvrc / f"ILSVRC2012_img_{split}.tar"
    data = tar.read_bytes()
    # A tar ends with up to ten kilobytes of zeros.
    tar.write_bytes(data[: int(len(data.rstrip(b"\0")) * keep)])
    with pytest.raises(NaturalImagesDataError, match=r"whole tar file.*Download it again"):
        open_images(ilsvrc, split=split)


def test_missing_devkit(ilsvrc):
    (ilsvrc / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(NaturalImagesDataError, match=r"devkit.*Download it"):
        open_images(ilsvrc, split="val")
    assert len(open_images(ilsvrc)) == 9


def test_devkit_of_fewer_images(ilsvrc):
    write_devkit(ilsvrc, truth=TRUTH[:5])
    with pytest.raises(NaturalImagesDataError, match="number 7"):
        open_images(ilsvrc, split="val")


def test_devkit_of_other_classes(ilsvrc):
    write_devkit(ilsvrc, truth=[*TRUTH, 900])
    with pytest.raises(NaturalImagesDataError, match=r"\[900\]"):
        open_images(ilsvrc, split="val")


def test_wrong_number_of_classes(ilsvrc):
    with pytest.raises(NaturalImagesDataError, match=r"expected 1000 classes in 'val', got 3"):
        open_images(ilsvrc, split="val", classes=1000)
