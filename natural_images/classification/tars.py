"""Images inside tar files, read where they lie, without unpacking."""

import hashlib
import logging
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastvim.files import atomic_path
from natural_images.classification.images import BadImage, decode
from natural_images.errors import NaturalImagesDataError

log = logging.getLogger(__name__)

Entry = tuple[str, int, int, int]
"""An image inside a tar: its name, where its bytes begin, how many there are, and its label.

The label is -1 where the tar does not say it.
"""


@dataclass(frozen=True)
class TarImages:
    """Images that are ranges of bytes of tar files; an `ImageSource`.

    files
        The tar files; `file_numbers` (n,) int32 has the one of each image.
    names
        (n,) names inside the tar, UTF-8.
    offsets, sizes
        (n,) int64, bytes.
    """

    files: tuple[Path, ...]
    file_numbers: np.ndarray
    names: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    @property
    def places(self) -> tuple[Path, ...]:
        """The tar files."""
        return self.files

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Name inside the tar; where there are several tars, after the name of its own."""
        name = self.names[index].decode()
        return (
            f"{self.files[self.file_numbers[index]].name}/{name}" if len(self.files) > 1 else name
        )

    def read(self, index: int) -> Image.Image:
        """Decode an image; raises BadImage."""
        # Opened anew each time: a source has no state that threads or processes could share.
        try:
            with self.files[self.file_numbers[index]].open("rb", buffering=0) as file:
                file.seek(int(self.offsets[index]))
                data = file.read(int(self.sizes[index]))
        except OSError as error:
            raise BadImage(f"{error.strerror} ({type(error).__name__})") from error
        return decode(data)


def cached_index(
    files: Sequence[Path], entries: Callable[[Path], Iterator[Entry]]
) -> dict[str, np.ndarray]:
    """Fields of `TarImages` that describe all `entries` of tar files: arrays by their name.

    Listing ImageNet's tars reads every header in 150 GB, so the result is kept, beside the files
    where that can be written and else in the user's cache, until a size or a date changes.
    """
    facts = "\n".join(f"{f.resolve()} {f.stat().st_size} {f.stat().st_mtime_ns}" for f in files)
    name = f".natural_images.{hashlib.sha256(facts.encode()).hexdigest()[:16]}.npz"
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "natural-images"
    places = [files[0].parent / name, user / name]
    for place in places:
        try:
            with np.load(place, allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            continue
    log.info("%s: listing the images (once)", files[0].parent)
    listed = [(i, *entry) for i, file in enumerate(files) for entry in _checked(file, entries)]
    columns = list(zip(*listed, strict=True)) or [()] * 5
    index: dict[str, Any] = {
        "file_numbers": np.array(columns[0], np.int32),
        "names": np.array([name.encode() for name in columns[1]], dtype=np.bytes_),
        "offsets": np.array(columns[2], np.int64),
        "sizes": np.array(columns[3], np.int64),
        "labels": np.array(columns[4], np.int64),
    }
    for place in places:
        try:
            with atomic_path(place) as temporary, temporary.open("wb") as file:
                np.savez(file, **index)
            break
        except OSError:
            continue
    return index


def members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Files inside a tar, hidden ones left out."""
    for member in tar:
        if member.isreg() and not Path(member.name).name.startswith("."):
            yield member
        # Else a tar keeps every header it has read.
        tar.members = []  # type: ignore[attr-defined]


def _checked(path: Path, entries: Callable[[Path], Iterator[Entry]]) -> Iterator[Entry]:
    """Entries of one tar, each inside the file; errors name the tar."""
    length = path.stat().st_size
    try:
        for entry in entries(path):
            name, offset, size, _ = entry
            if offset + size > length:
                raise tarfile.ReadError(f"{name} ends behind the end of the file")
            yield entry
    except (tarfile.TarError, OSError) as error:
        raise NaturalImagesDataError(
            f"{path}: expected a whole tar file, got one of {length} bytes that cannot be listed "
            f"({error}). Download it again"
        ) from error
