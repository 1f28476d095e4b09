"""Tables that say something of wells: reading them, choosing a plate's, finding the wells."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from cellpipe import schema
from cellpipe.errors import CellpipeDataError
from cellpipe.wells import FORMATS, inside, pad_well, parse_well, well_from_parts

WELL_COLUMNS = ("well_position", "well")
ROW_AND_COLUMN = (("row", "column"), ("wellrow", "wellcol"))
BARCODE_COLUMNS = (("assay_plate_barcode", "plate_map_name"), ("barcode", "platemap_file"))
PLACE_COLUMNS = {
    *("source", "batch", "plate", "site"),
    *WELL_COLUMNS,
    *(name for pair in ROW_AND_COLUMN for name in pair),
}
"""Columns, in lower case, that say where a row belongs and not what is there."""


def read_table(path: Path) -> pd.DataFrame:
    """Read a table of texts, "" where empty; names of columns lose ``Metadata_``."""
    separator = "," if ".csv" in path.suffixes else "\t"
    try:
        table = pd.read_csv(path, sep=separator, dtype=str, encoding="utf-8-sig").fillna("")
    except (OSError, ValueError) as error:
        raise CellpipeDataError(f"{path} is not a readable table: {error}") from error
    return table.rename(columns=lambda name: name.strip().removeprefix("Metadata_"))


def choose_by_barcode(path: Path, plate: str) -> Path:
    """Return the platemap that a barcode table names for `plate`, or `path` if it is none."""
    table = read_table(path)
    for barcode, name in BARCODE_COLUMNS:
        if {barcode, name} <= {column.lower() for column in table.columns}:
            chosen = column_text(table, name)[column_text(table, barcode) == plate]
            break
    else:
        return path
    if chosen.empty:
        raise CellpipeDataError(
            f"{path} names no platemap for plate {plate!r}; it knows "
            f"{some(column_text(table, barcode))}. Add the plate, or set `plate` to its barcode"
        )
    folders = (path.parent, path.parent / "platemap")
    files = [f / f"{chosen.iloc[0]}{end}" for f in folders for end in (".txt", ".tsv", ".csv", "")]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise CellpipeDataError(
            f"{path} names platemap {chosen.iloc[0]!r} for plate {plate}, but no file of that name "
            f"lies in {folders[0]} or {folders[1]}"
        )
    return found


def rows_of_plate(table: pd.DataFrame, path: Path, plate: str) -> pd.DataFrame:
    """Rows of one plate, where the table is of several, as JUMP's well.csv is."""
    column = find_column(table, ("plate",))
    if column is None:
        return table
    rows = table[table[column] == plate]
    if rows.empty:
        raise CellpipeDataError(f"{path} has no row of plate {plate!r}, only {some(table[column])}")
    return rows


def well_index(
    table: pd.DataFrame, path: Path, shape: tuple[int, int] | None, *, column: str | None
) -> pd.Index:
    """Zero-padded wells of the rows, each once and on the plate, or `CellpipeDataError`."""
    pairs = (pair for pair in ROW_AND_COLUMN if all(find_column(table, [name]) for name in pair))
    pair = next(pairs, None)
    found = column.removeprefix("Metadata_") if column else find_column(table, WELL_COLUMNS)
    try:
        if found in table:
            wells = [pad_well(name) for name in table[found]]
        elif column is None and pair is not None:
            parts = zip(column_text(table, pair[0]), column_text(table, pair[1]), strict=True)
            wells = [well_from_parts(*part) for part in parts]
        else:
            raise CellpipeDataError(
                f"no column of wells: expected {column or WELL_COLUMNS} or a row and a column, got "
                f"{list(table.columns)}. Rename one"
            )
    except CellpipeDataError as error:
        raise CellpipeDataError(f"{path}: {error}") from error
    outside = [well for well in wells if not inside(parse_well(well), shape or FORMATS[-1])]
    if outside:
        raise CellpipeDataError(
            f"{path}: wells {some(outside)} lie outside the plate of {shape} rows and columns. "
            "Is it the platemap of another kind of plate?"
        )
    index = pd.Index(wells, name=schema.WELL)
    twice = index[index.duplicated()]
    if len(twice):
        raise CellpipeDataError(f"{path}: wells {some(twice)} are there twice. Keep one row each")
    return index


def check_wells(index: pd.Index, imaged: set[str], path: Path, plate: str) -> None:
    """Raise `CellpipeDataError` if an imaged well is not in the platemap."""
    missing = sorted(imaged - set(index))
    if missing and len(missing) == len(imaged):
        raise CellpipeDataError(
            f"{path} has no well in common with plate {plate}: imaged are {some(missing)}, it has "
            f"{some(index)}. Is it the platemap of another plate?"
        )
    if missing:
        raise CellpipeDataError(
            f"{path} lacks wells {some(missing)} of plate {plate}. Add a row for each; one that "
            "holds nothing has pert_type empty"
        )


def find_column(table: pd.DataFrame, names: Iterable[str]) -> str | None:
    """Return the table's column that is the first of `names`, in whatever case."""
    columns = {column.lower(): column for column in table.columns}
    return next((columns[name] for name in names if name in columns), None)


def column_text(table: pd.DataFrame, name: str) -> pd.Series:
    """Return a column, in whatever case, or empty texts where the table has none."""
    column = find_column(table, (name,))
    return pd.Series("", index=table.index) if column is None else table[column]


def some(values: Iterable[str]) -> str:
    """Name the first ten of many."""
    values = list(dict.fromkeys(values))
    return ", ".join(values[:10]) + (f" and {len(values) - 10} more" if len(values) > 10 else "")
