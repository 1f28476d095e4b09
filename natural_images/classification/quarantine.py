"""Tables of images that cannot be decoded: found before a run meets them, or while it does."""

import csv
import io
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import BinaryIO

import numpy as np
from rich.progress import track

from fastvim.files import atomic_path
from natural_images.classification.images import BadImage, ImageSource, Split
from natural_images.errors import NaturalImagesDataError

log = logging.getLogger(__name__)

COLUMNS = ("name", "reason")
RUN_COLUMNS = ("split", *COLUMNS)
CHUNK = 256
"""Images that a process checks at a time."""

Bad = tuple[int, str]
"""Index of an image that cannot be decoded, and why."""


def check_images(source: ImageSource, output: Path, workers: int = 1) -> np.ndarray:
    """Decode every image once, with a progress bar, and write those that fail to a table.

    Parameters
    ----------
    source
        The images.
    output
        CSV with the columns name and reason, one row a bad image; appears when all are checked.
    workers
        Processes that decode.

    Returns
    -------
    Indices of the good images, ascending, (n,) int64.

    Raises
    ------
    NaturalImagesDataError
        None is good; the table is there nevertheless.
    """
    chunks = [range(i, min(i + CHUNK, len(source))) for i in range(0, len(source), CHUNK)]
    checked = _checked(source, chunks, workers)
    found = track(checked, description="checking", total=len(chunks))
    bad = [row for rows in found for row in rows]
    write_quarantine(output, source, bad)
    if len(bad) == len(source):
        raise NaturalImagesDataError(
            f"none of {len(source)} images can be decoded. The first reason in {output}: "
            f"{source.name(bad[0][0])}: {bad[0][1]}"
        )
    if bad:
        usual = Counter(reason for _, reason in bad).most_common(1)[0][0]
        log.warning(
            "%d of %d images cannot be decoded, most often: %s. See %s",
            *(len(bad), len(source), usual, output),
        )
    return np.setdiff1d(np.arange(len(source)), [index for index, _ in bad])


def write_quarantine(output: Path, source: ImageSource, bad: Iterable[Bad]) -> None:
    """Write a table of bad images of `source` atomically, with the columns name and reason."""
    rows = ((source.name(index), reason) for index, reason in bad)
    with atomic_path(output) as temporary:
        temporary.write_bytes(_csv([COLUMNS, *rows]))


@dataclass(frozen=True)
class RunQuarantine:
    """The table of bad images that a run meets, one row an image, whichever process meets it.

    Threads, worker processes and the processes of several GPUs add to it as they read, and so does
    a resumed run.

    path
        CSV with the columns split, name and reason; made with the first row.
    split
        Of the images that are added here.
    """

    path: Path
    split: Split

    def add(self, name: str, reason: str) -> bool:
        """Append an image, and return whether it had no row yet."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            _lock(file)
            file.seek(0)
            text = file.read()
            whole = _whole_rows(text)
            # A search of bytes, for every process comes here with every bad image.
            if b"\n" + _csv([(self.split, name)])[:-1] + b"," in whole:
                return False
            if len(whole) < len(text):
                file.truncate(len(whole))
            file.write(_csv([*(() if whole else (RUN_COLUMNS,)), (self.split, name, reason)]))
        return True

    def total(self) -> int:
        """Bad images of all splits so far."""
        try:
            return max(0, sum(1 for _ in _rows(_whole_rows(self.path.read_bytes()))) - 1)
        except FileNotFoundError:
            return 0


def good_indices(source: ImageSource, quarantine: Path | None) -> np.ndarray:
    """Indices of the images that a quarantine table does not name, ascending, (n,) int64.

    All of them without a table. Raises NaturalImagesDataError where the file is no such table, or
    names images that are not in `source`: it is another's.
    """
    if quarantine is None:
        return np.arange(len(source))
    try:
        header, *rows = _rows(Path(quarantine).read_bytes())
        if tuple(header) != COLUMNS:
            raise ValueError(f"its columns are {header}")
    except (OSError, ValueError) as error:
        raise NaturalImagesDataError(
            f"{quarantine}: expected a table with the columns {list(COLUMNS)} ({error}). Write it "
            "with `natural-images check`"
        ) from error
    bad = {row[0] for row in rows}
    if not bad:
        return np.arange(len(source))
    good = [index for index in range(len(source)) if source.name(index) not in bad]
    if len(good) + len(bad) != len(source):
        raise NaturalImagesDataError(
            f"{quarantine}: expected {len(bad)} of the {len(source)} images of this source, got "
            f"{len(source) - len(good)} that are in it. It was written for other images or another "
            "split; run `natural-images check` again"
        )
    return np.array(good, dtype=np.int64)


def _lock(file: BinaryIO) -> None:
    """Wait for the processes that write to `file`, until it is closed."""
    # Windows has no such locks, nor have some network file systems; at worst a row comes twice.
    with suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


def _whole_rows(text: bytes) -> bytes:
    """Without the half of a row that a full disk left at the end."""
    return text[: text.rfind(b"\n") + 1]


# A name that is not text, as some file systems allow, is written and read as it is.
def _csv(rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _rows(text: bytes) -> Iterator[list[str]]:
    return csv.reader(io.StringIO(text.decode("utf-8", "surrogateescape"), newline=""))


def _checked(source: ImageSource, chunks: Sequence[range], workers: int) -> Iterator[list[Bad]]:
    if workers <= 1:
        yield from (_bad(source, chunk) for chunk in chunks)
        return
    with ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_keep, initargs=(source,)
    ) as pool:
        try:
            yield from pool.map(_bad_of_kept, chunks)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _bad(source: ImageSource, indices: range) -> list[Bad]:
    bad = []
    for index in indices:
        try:
            source.read(index)
        except BadImage as error:
            bad.append((index, error.reason))
    return bad


_kept: list[ImageSource] = []


def _keep(source: ImageSource) -> None:
    # Sent once to each process, and not with every chunk.
    _kept[:] = [source]


def _bad_of_kept(indices: range) -> list[Bad]:
    return _bad(_kept[0], indices)
