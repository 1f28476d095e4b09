"""Images in Parquet files, as on the Hugging Face hub."""

import json
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from natural_images.classification.images import decode
from natural_images.classification.shards import class_names, find_shards
from natural_images.errors import NaturalImagesDataError

log = logging.getLogger(__name__)

LARGE_ROW_GROUP = 64 * 2**20
"""Bytes; reading more than that for one image takes several times as long as decoding it."""


@dataclass(frozen=True)
class ParquetImages:
    """Images in a column of Parquet files; an `ImageSource`.

    A random image costs the reading of its whole row group, so small row groups (a hundred images)
    are fast, and folders and tar files faster. Each process keeps the last few row groups.

    group_files, group_numbers
        Of every row group: index into `files`, and number inside that file.
    group_ends
        Images up to the end of every row group, int64.
    """

    files: tuple[Path, ...]
    column: str
    names: np.ndarray
    group_files: np.ndarray
    group_numbers: np.ndarray
    group_ends: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    @property
    def places(self) -> tuple[Path, ...]:
        """The Parquet files."""
        return self.files

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Path that the table gives, or the file and row."""
        return self.names[index].decode()

    def read(self, index: int) -> Image.Image:
        """Decode an image; raises BadImage."""
        group = int(np.searchsorted(self.group_ends, index, side="right"))
        file, number = self.files[self.group_files[group]], int(self.group_numbers[group])
        images = _row_group(file, number, self.column)
        place = index - int(self.group_ends[group]) + len(images)
        image = images[place].as_py() or {}
        return decode(image.get("bytes") or b"")


def find(path: Path, split: str, classes: int | None) -> ParquetImages | None:
    """Open the Parquet files of a split, where `find_shards` looks; None where there are none.

    Raises
    ------
    NaturalImagesDataError
        Files of other splits alone, a damaged one, other columns than an image and a label, a row
        without a label, or a label out of range.
    """
    files = find_shards(path, split, ".parquet")
    return _open(files, classes) if files else None


def _open(files: list[Path], classes: int | None) -> ParquetImages:
    labels: list[np.ndarray] = []
    names: list[bytes] = []
    groups: list[tuple[int, int, int]] = []
    named: list[str] | None = None
    column = ""
    for i, path in enumerate(files):
        try:
            with pq.ParquetFile(path) as file:
                column, label = _columns(path, file.schema_arrow)
                named = named or _named_classes(file.schema_arrow, label)
                metadata = file.metadata
                groups += [
                    (i, n, metadata.row_group(n).num_rows) for n in range(file.num_row_groups)
                ]
                table = file.read(columns=[f"{column}.path", label])
        except (pa.ArrowException, OSError) as error:
            raise NaturalImagesDataError(
                f"{path}: expected a Parquet file, it cannot be read ({error}). Download it again"
            ) from error
        if table[label].null_count:
            raise NaturalImagesDataError(f"{path}: expected a label in every row, got empty ones")
        labels.append(table[label].to_numpy().astype(np.int64))
        given = table[column].combine_chunks().field("path").to_pylist()
        names += [(n or f"{path.name}/{row}").encode() for row, n in enumerate(given)]
        _warn_of_large_groups(path, metadata)
    numbers = np.concatenate(labels)
    columns = np.array(groups, np.int64).reshape(-1, 3)
    return ParquetImages(
        files=tuple(files),
        column=column,
        names=np.array(names, dtype=np.bytes_),
        group_files=columns[:, 0],
        group_numbers=columns[:, 1],
        group_ends=columns[:, 2].cumsum(),
        labels=numbers,
        classes=class_names(files[0].parent, numbers, named, classes),
    )


def _columns(path: Path, schema: pa.Schema) -> tuple[str, str]:
    """Names of the columns of images and of labels."""
    images = [
        field.name
        for field in schema
        if pa.types.is_struct(field.type)
        and {"bytes", "path"} <= {field.type.field(i).name for i in range(field.type.num_fields)}
    ]
    integers = [field.name for field in schema if pa.types.is_integer(field.type)]
    labels = [name for name in ("label", "labels", "cls", "fine_label") if name in integers]
    if not images or not labels:
        raise NaturalImagesDataError(
            f"{path}: expected a column 'image' of bytes and path, and a column 'label' of whole "
            f"numbers, got {[f'{field.name}: {field.type}' for field in schema]}"
        )
    return images[0], labels[0]


def _named_classes(schema: pa.Schema, label: str) -> list[str] | None:
    """Class names that `datasets` writes beside the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, TypeError, ValueError):
        return None


@lru_cache(maxsize=8)
def _row_group(path: Path, number: int, column: str) -> Any:
    """Images of a row group, a struct of bytes and path each."""
    with pq.ParquetFile(path) as file:
        return file.read_row_group(number, columns=[column])[column]


def _warn_of_large_groups(path: Path, metadata: pq.FileMetaData) -> None:
    sizes = [metadata.row_group(n).total_byte_size for n in range(metadata.num_row_groups)]
    if len(sizes) > 1 and max(sizes) > LARGE_ROW_GROUP:
        log.warning(
            "%s: a random image costs reading a row group of %d MB. Write it with row groups of a "
            "hundred images, or use a folder or tar files",
            *(path, max(sizes) // 2**20),
        )
