"""Files and folders that appear whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` and rename it there when the block ends well.

    Whatever the block made there, a file or a folder, takes the target's name in one step; if the
    block raises (a full disk, say) it is removed and an older target stays as it was. A killed
    process leaves only the temporary name, which no reader looks for and the next run removes.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.partial")
    remove(temporary)
    try:
        yield temporary
        if target.is_dir():
            remove(target)
        temporary.replace(target)
    except BaseException:
        remove(temporary)
        raise


def remove(path: Path) -> None:
    """Delete a file or a folder with all it holds; a path that is not there is left alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
