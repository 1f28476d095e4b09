"""Files appear whole or not at all."""

import pandas as pd
import pytest

from cellpipe.files import read_table_metadata, write_table
from fastvim.files import atomic_path


def test_atomic_path_leaves_the_old_file_when_writing_fails(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(OSError, match="disk"), atomic_path(target) as temporary:
        temporary.write_text("half of the n")
        raise OSError("disk full")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_atomic_path_replaces_a_folder(tmp_path):
    target = tmp_path / "store"
    for content in ("old", "new"):
        with atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert [path.name for path in target.iterdir()] == ["new"]


def test_write_table_round_trip(tmp_path):
    table = pd.DataFrame({"a": [1, 2]})
    path = tmp_path / "new" / "table.parquet"
    write_table(table, path, metadata={"cellpipe": '{"channels": ["DNA"]}'})
    pd.testing.assert_frame_equal(pd.read_parquet(path), table)
    assert read_table_metadata(path)["cellpipe"] == '{"channels": ["DNA"]}'
