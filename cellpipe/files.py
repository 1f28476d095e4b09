"""Parquet tables that appear whole or not at all."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fastvim.files import atomic_path


def write_table(table: pd.DataFrame, path: Path, *, metadata: dict[str, str] | None = None) -> None:
    """Write a Parquet table atomically; `metadata` goes into the file's key-value footer."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    extra = {key.encode(): value.encode() for key, value in (metadata or {}).items()}
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **extra})
    with atomic_path(path) as temporary:
        pq.write_table(arrow, temporary)


def read_table_metadata(path: Path) -> dict[str, str]:
    """Read the key-value footer that `write_table` wrote."""
    raw = pq.read_schema(path).metadata or {}
    return {key.decode(): value.decode() for key, value in raw.items()}
