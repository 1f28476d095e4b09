"""Which images of a source cannot be decoded, found before a run meets them."""

import csv
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rich.progress import track

from fastvim.files import atomic_path
from natural_images.classification.images import BadImage, ImageSource
from natural_images.errors import NaturalImagesDataError

log = logging.getLogger(__name__)

COLUMNS = ("name", "reason")
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
    with (
        atomic_path(output) as temporary,
        # A name that is not text, as some file systems allow, is written as it is.
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows((source.name(index), reason) for index, reason in bad)
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


def good_indices(source: ImageSource, quarantine: Path | None) -> np.ndarray:
    """Indices of the images that a quarantine table does not name, ascending, (n,) int64.

    All of them without a table. Raises NaturalImagesDataError where the file is no such table, or
    names images that are not in `source`: it is another's.
    """
    if quarantine is None:
        return np.arange(len(source))
    try:
        with Path(quarantine).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            header, *rows = csv.reader(file)
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
