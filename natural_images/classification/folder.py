"""Images in one folder a class, as ``torchvision.datasets.ImageFolder`` reads them."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from natural_images.classification.images import BadImage, decode
from natural_images.errors import NaturalImagesDataError

log = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "validation", "valid")}


@dataclass(frozen=True)
class FolderImages:
    """Image files below `root`; an `ImageSource`.

    files
        (n,) paths relative to `root` in the encoding of the file system: a million of them take
        fifty megabytes so, and four times as much as text.
    """

    root: Path
    files: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    @property
    def places(self) -> tuple[Path, ...]:
        """The root."""
        return (self.root,)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """Path of the file relative to the root."""
        # Without a Path, which would take six seconds for the names of ImageNet.
        return os.fsdecode(self.files[index]).replace(os.sep, "/")

    def read(self, index: int) -> Image.Image:
        """Decode an image; raises BadImage."""
        try:
            data = Path(self.root, self.name(index)).read_bytes()
        except OSError as error:
            raise BadImage(f"{error.strerror} ({type(error).__name__})") from error
        return decode(data)


def find(path: Path, split: str, classes: int | None) -> FolderImages | None:
    """Open ``path/<split>/<class>/*`` or ``path/<class>/*``; None where there is no such folder.

    Files of other kinds and hidden ones are passed over. Classes are sorted as text, as torchvision
    sorts them, unless all are numbers (ImageNet-V2's are): then 2 comes before 10.

    Raises
    ------
    NaturalImagesDataError
        There is a folder of the other split alone, or a class without an image.
    """
    folders = split_folder(path, split)
    if folders is None:
        return None
    names = [entry.name for entry in os.scandir(folders) if _is_class(entry)]
    names.sort(key=(lambda name: (int(name), name)) if all(map(_is_number, names)) else None)
    listed = [sorted(_images(folders, name)) for name in names]
    if not any(listed):
        return None
    if folders == path:
        log.info("%s has no folder of the split %r; all of it is read", path, split)
    empty = [name for name, files in zip(names, listed, strict=True) if not files]
    if empty:
        raise NaturalImagesDataError(
            f"{folders}: expected images in every folder, which are its {len(names)} classes, got "
            f"none in {empty[:5]} ({len(empty)} of them). Remove these folders or complete the data"
        )
    return FolderImages(
        root=folders,
        files=np.array([os.fsencode(file) for files in listed for file in files]),
        labels=np.repeat(np.arange(len(names)), [len(files) for files in listed]),
        classes=tuple(names),
    )


def split_folder(path: Path, split: str) -> Path | None:
    """Folder of a split below `path`, `path` itself where there are no splits.

    Raises NaturalImagesDataError where the other split has a folder and this one has none.
    """
    for name in SPLIT_FOLDERS[split]:
        if (path / name).is_dir():
            return path / name
    other = next(
        (name for names in SPLIT_FOLDERS.values() for name in names if (path / name).is_dir()), None
    )
    if other is None:
        return path
    raise NaturalImagesDataError(
        f"{path}: expected a folder {' or '.join(map(repr, SPLIT_FOLDERS[split]))} beside "
        f"{other!r}, got none. Add it, or give the path of {other!r} itself"
    )


def _images(folder: Path, name: str) -> Iterator[str]:
    # Classes may be links to folders elsewhere, as in subsets of ImageNet.
    for parent, _, files in os.walk(folder / name, followlinks=True):
        below = os.path.relpath(parent, folder)
        for file in files:
            if file.lower().endswith(SUFFIXES) and not file.startswith("."):
                yield os.path.join(below, file)  # noqa: PTH118 - a million Paths take a minute


def _is_class(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()
