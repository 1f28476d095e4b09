"""Reading embeddings block by block: a plate's cells need not fit into memory."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem

from cellpipe import schema
from cellpipe.embedding_file import UNS
from cellpipe.errors import CellpipeDataError

log = logging.getLogger(__name__)

BLOCK = 8192
"""Rows read at once; 25 MB at 768 dimensions."""


@dataclass(frozen=True)
class Embeddings:
    """One plate's embeddings (``.h5ad``); `obs` is in memory, `X` stays on disk.

    path
        The file.
    plate
        Name of the plate; the file's stem where it has no rows.
    obs
        One row a cell (or field), indexed by ``obs_names``; text is plain strings, "" where
        unknown.
    features
        Names of the embedding's dimensions.
    provenance
        What `cellpipe embed` wrote about the model.
    """

    path: Path
    plate: str
    obs: pd.DataFrame
    features: tuple[str, ...]
    provenance: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> "Embeddings":
        """Read all but the matrix; raises CellpipeDataError where the file is not of the kind.

        Goes through h5py because AnnData's backed mode reads ``obsm`` whole, which holds the
        embedding of every channel.
        """
        try:
            with h5py.File(path, "r") as file:
                obs = as_text(read_elem(file["obs"]))
                features = tuple(read_elem(file["var"]).index)
                provenance = read_elem(file["uns"]).get(UNS, {})
                shape = file["X"].shape
        except (OSError, KeyError, AttributeError) as error:
            raise CellpipeDataError(
                f"{path}: not an embeddings file of cellpipe embed ({error}). Embed the plate again"
            ) from error
        if shape != (len(obs), len(features)):
            raise CellpipeDataError(
                f"{path}: X is {shape} but obs and var say {(len(obs), len(features))}. "
                "Embed the plate again"
            )
        return cls(path, _only_plate(path, obs), obs, features, provenance)

    @classmethod
    def open_plates(cls, paths: Sequence[Path]) -> "list[Embeddings]":
        """Open the files of several plates; one without a single cell is named and left out."""
        files = [cls.open(path) for path in paths]
        for file in files:
            if file.obs.empty:
                log.warning("%s holds no cells; the plate is left out", file.path)
        filled = [file for file in files if not file.obs.empty]
        if not filled:
            raise CellpipeDataError(
                f"expected embeddings of at least one cell, got none in {list(map(str, paths))}. "
                "Look at the quarantine and cell tables of the plates"
            )
        return filled

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (rows, X of these rows), front to back, (row, dimension) float32."""
        with h5py.File(self.path, "r") as file:
            for start in range(0, len(self.obs), BLOCK):
                rows = slice(start, min(start + BLOCK, len(self.obs)))
                yield rows, file["X"][rows]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Read some rows, in the order asked for: (row, dimension) float32."""
        chosen = np.empty((len(rows), len(self.features)), np.float32)
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        first = 0
        with h5py.File(self.path, "r") as file:
            while first < len(rows):
                start = int(ordered[first])
                last = int(np.searchsorted(ordered, start + BLOCK))
                here = order[first:last]
                # One slice and a pick in memory: h5py is slow at picking rows on disk.
                block = file["X"][start : int(ordered[last - 1]) + 1]
                chosen[here] = block[rows[here] - start]
                first = last
        return chosen


def _only_plate(path: Path, obs: pd.DataFrame) -> str:
    if schema.PLATE not in obs or schema.WELL not in obs:
        raise CellpipeDataError(
            f"{path}: expected {schema.PLATE} and {schema.WELL} in obs, got {list(obs.columns)}"
        )
    plates = sorted(set(obs[schema.PLATE]))
    if len(plates) > 1:
        raise CellpipeDataError(f"{path}: expected one plate a file, got {plates}")
    return plates[0] if plates else path.stem


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Turn categories into plain values, text with "" where unknown.

    Grouping by several categorical columns would make every combination of their categories.
    """
    table = table.copy()
    for name, column in table.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            column = column.astype(object).infer_objects()
        if pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column):
            column = column.astype(object).where(column.notna(), "").astype(str)
        table[name] = column
    return table
