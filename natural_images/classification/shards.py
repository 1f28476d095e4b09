"""Shards of labelled images: how those of a split are found, and WebDataset's, which are tars."""

import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from natural_images.classification.folder import SPLIT_FOLDERS, SUFFIXES
from natural_images.classification.tars import Entry, TarImages, cached_index, members
from natural_images.errors import NaturalImagesDataError

LABEL_SUFFIX = ".cls"


def find(path: Path, split: str, classes: int | None) -> TarImages | None:
    """Open the WebDataset shards of a split; None where there are none.

    Raises
    ------
    NaturalImagesDataError
        Shards of other splits alone, an image without a label, or a label out of range.
    """
    files = find_shards(path, split, ".tar")
    if not files:
        return None
    index = cached_index(files, _labelled_entries)
    names = class_names(files[0].parent, index["labels"], None, classes)
    return TarImages(files=tuple(files), classes=names, **index)


def find_shards(path: Path, split: str, suffix: str) -> list[Path]:
    """Shards of a split, in ``path/<split>``, ``path/data`` or `path`; empty where there are none.

    In a folder with shards of several splits their names tell them apart:
    ``imagenet1k-train-0000.tar``, ``validation-00000-of-00014.parquet``.

    Raises NaturalImagesDataError where there are shards of other splits alone.
    """
    for folder in (*(path / name for name in SPLIT_FOLDERS[split]), path / "data", path):
        shards = sorted(folder.glob(f"*{suffix}"))
        if shards:
            return shards if folder.name in SPLIT_FOLDERS[split] else _of(shards, split)
    return []


def class_names(
    folder: Path, labels: np.ndarray, names: list[str] | None, classes: int | None
) -> tuple[str, ...]:
    """Names of the classes, an index into which is a label; numbers where shards have no names.

    Parameters
    ----------
    labels
        (n,) int64, of all images in the shards of `folder`.
    names
        Those that the shards give.
    classes
        Number of classes that are expected.

    Raises
    ------
    NaturalImagesDataError
        A label is out of range.
    """
    largest = int(labels.max(initial=-1))
    count = len(names) if names else max(largest + 1, classes or 0)
    known = min(count, classes or count)
    if int(labels.min(initial=0)) < 0 or largest >= known:
        raise NaturalImagesDataError(
            f"{folder}: expected labels from 0 to {known - 1} for {known} classes, got "
            f"{labels.min()} to {largest}. These may be images without published labels, or of "
            "another set of classes"
        )
    return tuple(names) if names else tuple(map(str, range(count)))


def _of(shards: Sequence[Path], split: str) -> list[Path]:
    """Those of a split, by a word of their names; all where no name has such a word."""
    words = {shard: set(re.split(r"[^a-z]+", shard.stem.lower())) for shard in shards}
    chosen = [shard for shard in shards if words[shard] & set(SPLIT_FOLDERS[split])]
    others = {"test", *(name for names in SPLIT_FOLDERS.values() for name in names)}
    if not chosen and not any(words[shard] & others for shard in shards):
        return list(shards)
    if not chosen:
        raise NaturalImagesDataError(
            f"{shards[0].parent}: expected shards of {split!r} by their names, got "
            f"{[shard.name for shard in shards[:3]]}. Add them, or give the path of the others"
        )
    return chosen


def _labelled_entries(path: Path) -> Iterator[Entry]:
    """Images of a shard, each with the label of its key: all before the first dot of the name."""
    images: list[tuple[str, str, int, int]] = []
    labels: dict[str, int] = {}
    with tarfile.open(path, "r:") as tar, path.open("rb") as file:
        for member in members(tar):
            name, offset, size = member.name, member.offset_data, member.size
            folder, slash, last = name.rpartition("/")
            key = folder + slash + last.split(".")[0]
            if name.lower().endswith(SUFFIXES):
                images.append((key, name, offset, size))
            elif name.endswith(LABEL_SUFFIX):
                file.seek(offset)
                labels[key] = _label(file.read(size), path, name)
    unlabelled = [(key, name) for key, name, _, _ in images if key not in labels]
    if unlabelled:
        raise NaturalImagesDataError(
            f"{path}: expected a label {unlabelled[0][0]}{LABEL_SUFFIX} beside {unlabelled[0][1]}, "
            f"got none ({len(unlabelled)} of {len(images)} images have none). Write one for each"
        )
    yield from ((name, offset, size, labels[key]) for key, name, offset, size in images)


def _label(data: bytes, path: Path, name: str) -> int:
    try:
        return int(data)
    except ValueError:
        raise NaturalImagesDataError(
            f"{path}: expected {name} to hold the number of a class, got {data[:20]!r}"
        ) from None
