"""The store of single-cell crops: Zarr 3, one cell a chunk, intensities preserved.

One cell a chunk makes a random cell one read; a thousand cells a shard keep the number of files
small. Crops hold illumination-corrected counts, not values scaled per cell, so that a dim cell
stays dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from zarr.codecs import BloscCodec

from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.pixel_statistics import PixelStatistics, PixelSums

CELLS_PER_SHARD = 1024
CELLS_FILE = "cells.parquet"


@dataclass(frozen=True)
class CropStore:
    """Crops of one plate.

    `array` is (cell, channel, y, x) uint16 counts, `cells` the table of its rows, `statistics`
    those of all its pixels.
    """

    path: Path
    array: zarr.Array
    cells: pd.DataFrame
    channels: tuple[str, ...]
    statistics: PixelStatistics
    pixel_size_um: float | None

    @classmethod
    def open(cls, path: Path) -> "CropStore":
        """Open a crop store; raises CellpipeDataError where there is none or it is torn."""
        try:
            group = zarr.open_group(path, mode="r")
            array = group["crops"]
            attributes: dict[str, Any] = dict(group.attrs)
            statistics = PixelStatistics(np.array(attributes["mean"]), np.array(attributes["std"]))
            cells = pd.read_parquet(Path(path) / CELLS_FILE)
        except (OSError, KeyError, ValueError) as error:
            raise CellpipeDataError(
                f"{path} is not a crop store ({error}). Make one with `cellpipe crops`"
            ) from error
        if not isinstance(array, zarr.Array) or len(cells) != array.shape[0]:
            raise CellpipeDataError(
                f"{path}: expected one crop a row of {CELLS_FILE} ({len(cells)}), got "
                f"{getattr(array, 'shape', array)}. Delete it and run `cellpipe crops` again"
            )
        return cls(
            path=Path(path),
            array=array,
            cells=cells,
            channels=tuple(attributes["channels"]),
            statistics=statistics,
            pixel_size_um=attributes["pixel_size_um"],
        )

    def channel_indices(self, names: Sequence[str]) -> np.ndarray:
        """Positions of the named channels; raises CellpipeValueError for one that is not there."""
        missing = [name for name in names if name not in self.channels]
        if missing:
            raise CellpipeValueError(
                f"{self.path} has no channels {missing}; it has {list(self.channels)}"
            )
        return np.array([self.channels.index(name) for name in names], dtype=np.int64)

    def read(self, rows: np.ndarray, channel_indices: np.ndarray | None = None) -> np.ndarray:
        """Crops at `rows`, in their order: (len(rows), channel, y, x) uint16."""
        crops = np.asarray(self.array.oindex[np.asarray(rows)])
        return crops if channel_indices is None else crops[:, channel_indices]


class CropWriter:
    """Fills a new store front to back in whole shards: a shard is the unit of writing."""

    def __init__(
        self,
        path: Path,
        *,
        count: int,
        channels: tuple[str, ...],
        size_px: int,
        pixel_size_um: float | None,
    ) -> None:
        group = zarr.create_group(path, zarr_format=3)
        group.attrs.update(channels=list(channels), pixel_size_um=pixel_size_um, size_px=size_px)
        self.array = group.create_array(
            "crops",
            shape=(count, len(channels), size_px, size_px),
            dtype="uint16",
            chunks=(1, len(channels), size_px, size_px),
            shards=(CELLS_PER_SHARD, len(channels), size_px, size_px),
            compressors=BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"),
            dimension_names=("cell", "channel", "y", "x"),
        )
        self._group = group
        self._sums = PixelSums(len(channels))
        self._written = 0
        self._waiting: list[np.ndarray] = []

    def append(self, batch: np.ndarray) -> None:
        """Add crops (cell, channel, y, x); they reach the disk when a shard is full."""
        self._sums.add(batch)
        self._waiting.append(batch)
        while sum(map(len, self._waiting)) >= CELLS_PER_SHARD:
            ready = np.concatenate(self._waiting)
            self._write(ready[:CELLS_PER_SHARD])
            self._waiting = [ready[CELLS_PER_SHARD:]]

    def close(self) -> None:
        """Write what is left, and the statistics of all pixels."""
        if self._waiting:
            self._write(np.concatenate(self._waiting))
            self._waiting = []
        statistics = self._sums.statistics()
        self._group.attrs.update(mean=statistics.mean.tolist(), std=statistics.std.tolist())

    def _write(self, batch: np.ndarray) -> None:
        self.array[self._written : self._written + len(batch)] = batch
        self._written += len(batch)
