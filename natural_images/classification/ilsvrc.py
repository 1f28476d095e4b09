"""ILSVRC 2012 as it is downloaded: tar files and a devkit, read without unpacking them."""

import io
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from natural_images.classification.folder import FolderImages
from natural_images.classification.tars import Entry, TarImages, cached_index, members
from natural_images.errors import NaturalImagesDataError

DEVKIT = "ILSVRC2012_devkit_t12"
VALIDATION_FOLDERS = ("val", "validation", "ILSVRC2012_img_val", ".")
_VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


def find(path: Path, split: str, classes: int | None) -> TarImages | FolderImages | None:
    """Open ILSVRC's own files of a split; None where they are not there.

    Training images are read from ``ILSVRC2012_img_train.tar``; validation images from
    ``ILSVRC2012_img_val.tar`` or an unpacked flat folder, with the labels of the devkit, a tar.gz
    or a folder. Classes are WordNet ids, sorted, in both.

    Raises
    ------
    NaturalImagesDataError
        A tar is truncated, or the devkit is missing, damaged, or of other images.
    """
    tar = path / f"ILSVRC2012_img_{split}.tar"
    if split == "train":
        return _training(tar) if tar.is_file() else None
    if tar.is_file():
        index = cached_index([tar], _flat_entries)
        wnids, labels = _validation_labels(path, [name.decode() for name in index["names"]], tar)
        return TarImages((tar,), classes=wnids, **{**index, "labels": labels})
    for folder in (path / name for name in VALIDATION_FOLDERS):
        files = _flat_images(folder)
        if files:
            wnids, labels = _validation_labels(path, files, folder)
            return FolderImages(folder, np.array([f.encode() for f in files]), labels, wnids)
    return None


def _training(tar: Path) -> TarImages:
    index = cached_index([tar], _nested_entries)
    wnids, labels = np.unique([n.split(b"/")[0] for n in index["names"]], return_inverse=True)
    classes = tuple(wnid.decode() for wnid in wnids)
    return TarImages((tar,), classes=classes, **{**index, "labels": labels.astype(np.int64)})


def _flat_images(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if _VALIDATION_NAME.match(entry.name))


def _validation_labels(
    path: Path, names: Sequence[str], where: Path
) -> tuple[tuple[str, ...], np.ndarray]:
    """WordNet ids, sorted, and labels (n,) int64 of the validation images `names` in `where`."""
    wnids, truth = _read_devkit(path)
    numbers = [_VALIDATION_NAME.fullmatch(Path(name).name) for name in names]
    odd = next((name for name, number in zip(names, numbers, strict=True) if not number), None)
    largest = max((int(number[1]) for number in numbers if number), default=0)
    if odd is not None or largest > len(truth):
        raise NaturalImagesDataError(
            f"{where}: expected images ILSVRC2012_val_00000001.JPEG to {len(truth):08d}.JPEG, "
            f"which the devkit labels, got {odd or f'number {largest}'}. Take both from the same "
            "challenge"
        )
    classes = sorted(wnids.values())
    labels = {number: classes.index(wnid) for number, wnid in wnids.items()}
    return tuple(classes), np.array([labels[truth[int(n[1]) - 1]] for n in numbers if n], np.int64)


def _read_devkit(path: Path) -> tuple[dict[int, str], list[int]]:
    """WordNet id of each of ILSVRC's own class numbers, and the number of each validation image.

    Only synsets without children are classes: the devkit also lists those above them.
    """
    from scipy.io import loadmat

    try:
        meta, truth = (
            _devkit_file(path, name)
            for name in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt")
        )
        synsets = np.atleast_1d(loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"])
        wnids = {
            int(synset["ILSVRC2012_ID"]): str(synset["WNID"])
            for synset in synsets
            if int(synset["num_children"]) == 0
        }
        numbers = [int(line) for line in truth.decode().split()]
    # scipy raises whatever a damaged file leads it to.
    except Exception as error:
        raise NaturalImagesDataError(
            f"{path}: expected the devkit, {DEVKIT}.tar.gz or a folder {DEVKIT}, with "
            f"data/meta.mat and data/ILSVRC2012_validation_ground_truth.txt, which label the "
            f"validation images; it cannot be read ({type(error).__name__}: {error}). Download it "
            "to this folder"
        ) from error
    unknown = sorted(set(numbers) - set(wnids))
    if unknown:
        raise NaturalImagesDataError(
            f"{path}: expected ground truth of the {len(wnids)} classes of meta.mat, got the "
            f"numbers {unknown[:5]} too. Download the devkit again"
        )
    return wnids, numbers


def _devkit_file(path: Path, name: str) -> bytes:
    for folder in (path / DEVKIT / "data", path / "devkit" / "data", path / "data"):
        if (folder / name).is_file():
            return (folder / name).read_bytes()
    archive = next(iter(sorted(path.glob(f"{DEVKIT}*.tar*"))), None)
    if archive is None:
        raise FileNotFoundError("no such file or folder")
    with tarfile.open(archive, "r:*") as tar:
        for member in tar:
            if Path(member.name).name == name and not Path(member.name).name.startswith("."):
                content = tar.extractfile(member)
                if content is not None:
                    return content.read()
    raise FileNotFoundError(f"{archive.name} has no {name}")


def _flat_entries(path: Path) -> Iterator[Entry]:
    with tarfile.open(path, "r:") as tar:
        yield from ((m.name, m.offset_data, m.size, -1) for m in members(tar))


def _nested_entries(path: Path) -> Iterator[Entry]:
    """Images inside the tars, one a class, inside the training tar; offsets are in the outer."""
    with tarfile.open(path, "r:") as outer:
        for member in members(outer):
            wnid, start = Path(member.name), member.offset_data
            if wnid.suffix != ".tar":
                continue
            with tarfile.open(fileobj=outer.extractfile(member), mode="r:") as inner:
                for image in members(inner):
                    name = f"{wnid.stem}/{Path(image.name).name}"
                    yield name, start + image.offset_data, image.size, -1
