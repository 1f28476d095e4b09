"""Embeddings as AnnData (``.h5ad``), written in blocks: memory does not grow with the plate.

What is written is the AnnData contract of this project:

=============================  =====================================================
``X``                          pooled embedding, (row, dimension) float32
``var_names``                  ``emb_0000``, ``emb_0001``, …
``obsm["X_fastchannelvim"]``   the same, under the name by which scanpy asks for it
``obsm["X_<channel>"]``        embedding pooled over the tokens of one channel
``obs``                        ``Metadata_*`` and quality columns
``obs_names``                  ``<source>__<batch>__<plate>__<well>__<site>[__<cell>]``
``uns["fastchannelvim"]``      provenance
=============================  =====================================================
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd

from fastvim.files import atomic_path

X_POOLED = "X_fastchannelvim"
UNS = "fastchannelvim"


class EmbeddingFile:
    """An open file that takes embeddings block by block, front to back."""

    def __init__(self, pooled: list[h5py.Dataset], channels: list[h5py.Dataset]) -> None:
        self._pooled = pooled
        self._channels = channels
        self._written = 0

    def append(self, pooled: np.ndarray, per_channel: np.ndarray) -> None:
        """Add rows: `pooled` (row, dimension) and `per_channel` (row, channel, dimension)."""
        rows = slice(self._written, self._written + len(pooled))
        for dataset in self._pooled:
            dataset[rows] = pooled
        for index, dataset in enumerate(self._channels):
            dataset[rows] = per_channel[:, index]
        self._written = rows.stop


@contextmanager
def write_embeddings(
    path: Path,
    obs: pd.DataFrame,
    *,
    dimension: int,
    channels: Sequence[str],
    provenance: dict[str, Any],
) -> Iterator[EmbeddingFile]:
    """Open `path` for embeddings of the rows of `obs`; it appears when the block ends well.

    Parameters
    ----------
    obs
        Its index becomes ``obs_names``, its columns ``obs``.
    dimension
        Length of an embedding.
    channels
        Names for ``obsm["X_<channel>"]``; a ``/`` in a name becomes ``_``, as AnnData asks.
    """
    var = pd.DataFrame(index=[f"emb_{i:04d}" for i in range(dimension)])
    shell = anndata.AnnData(obs=_as_categories(obs), var=var, uns={UNS: provenance})
    with atomic_path(path) as temporary:
        shell.write_h5ad(temporary)
        with h5py.File(temporary, "r+") as file:
            if "X" in file:
                del file["X"]

            def create(name: str) -> h5py.Dataset:
                dataset = file.create_dataset(
                    name,
                    (len(obs), dimension),
                    "float32",
                    chunks=(max(1, min(len(obs), 4096)), dimension) if len(obs) else None,
                )
                dataset.attrs["encoding-type"] = "array"
                dataset.attrs["encoding-version"] = "0.2.0"
                return dataset

            keys = [f"X_{name.replace('/', '_')}" for name in channels]
            yield EmbeddingFile(
                [create("X"), create(f"obsm/{X_POOLED}")], [create(f"obsm/{key}") for key in keys]
            )


def _as_categories(obs: pd.DataFrame) -> pd.DataFrame:
    """Text columns as categories, which AnnData stores small and scanpy colours by."""
    text = obs.select_dtypes(["object", "string"]).columns
    return obs.astype(dict.fromkeys(text, "category"))
