"""What is in the wells: platemaps, perturbation metadata, and the controls among them.

Columns it gives, by well: ``Metadata_broad_sample``, ``Metadata_pert_name``,
``Metadata_pert_type`` (``trt``, ``negcon``, ``poscon`` or ``empty``), ``Metadata_JCP2022``,
``Metadata_target``, all text and empty where unknown, and the platemap's own others.
JUMP's tables: https://github.com/jump-cellpainting/JUMP-Target
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from cellpipe import schema
from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.readers.images import text_keys
from cellpipe.well_tables import (
    PLACE_COLUMNS,
    check_wells,
    choose_by_barcode,
    column_text,
    find_column,
    read_table,
    rows_of_plate,
    some,
    well_index,
)

log = logging.getLogger(__name__)

PERT_TYPES = ("trt", schema.NEGCON, "poscon", "empty")

EMPTY_JCP2022 = "JCP2022_999999"
"""JUMP's identifier of an empty well, perturbation_control.csv."""

NAME_COLUMNS = ("pert_iname", "pert_name", "gene", "broad_sample", "jcp2022")
TARGET_COLUMNS = ("target", "target_list", "gene")


@dataclass(frozen=True)
class PlatemapColumns:
    """Which columns of a platemap that is not JUMP's mean what, with or without ``Metadata_``.

    `types` says what the values of the `pert_type` column mean, as in ``{"-1": "negcon", "0":
    "trt"}``; any other value than those of `PERT_TYPES` needs it.
    """

    pert_name: str | None = None
    pert_type: str | None = None
    target: str | None = None
    well: str | None = None
    types: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wrong = sorted(set(self.types.values()) - set(PERT_TYPES))
        if wrong:
            raise CellpipeValueError(
                f"pert_types: expected the meanings {', '.join(PERT_TYPES)}, got {', '.join(wrong)}"
            )


def read_platemap(
    path: Path,
    *,
    plate: str,
    wells: Iterable[str],
    shape: tuple[int, int] | None = None,
    metadata: Path | None = None,
    columns: PlatemapColumns | None = None,
) -> pd.DataFrame:
    """Read what is in the imaged wells of a plate.

    A well is ``negcon`` if its control_type or pert_type is, or it holds no sample but the solvent
    DMSO; ``empty`` if it holds no sample, or JUMP's id of none; DMSO gets the name ``DMSO`` and its
    JCP2022 id.

    Parameters
    ----------
    path
        Platemap (CSV, or tab-separated): one row per well, ``well_position``, ``Metadata_Well`` or
        ``well``, or a row and a column. Or the ``barcode_platemap.csv`` that names each plate's,
        which then lies beside it or in the folder ``platemap``.
    wells
        The imaged wells, zero-padded.
    shape
        Rows and columns of the plate, where known.
    metadata
        Table of perturbations, joined by ``broad_sample``.
    columns
        Needed for a table that is not JUMP's.

    Returns
    -------
    pd.DataFrame
        Indexed by zero-padded well, columns as the module says.

    Raises
    ------
    CellpipeDataError
        If a column or a sample is missing, a well is there twice, lies off the plate, or was
        imaged and is not there.
    """
    columns = columns or PlatemapColumns()
    path = choose_by_barcode(path, plate)
    table = rows_of_plate(read_table(path), path, plate)
    table.index = well_index(table, path, shape, column=columns.well)
    check_wells(table.index, set(wells), path, plate)
    own = [name for name in table.columns if name.lower() not in PLACE_COLUMNS]
    if metadata is not None:
        table = _join(table, path, read_table(metadata), metadata)
    sample = column_text(table, "broad_sample")
    name = _column(table, path, columns.pert_name, NAME_COLUMNS, "pert_name")
    target = _column(table, path, columns.target, TARGET_COLUMNS, "target")
    if name is None:
        raise CellpipeDataError(
            f"{path} says of no well what is in it: expected one of the columns {NAME_COLUMNS}, "
            f"got {list(table.columns)}. Name it with platemap_columns, pert_name"
        )
    log.info(
        "plate %s: perturbation from column %s, target from %s",
        *(plate, name, target or "none: the platemap and its metadata have no such column"),
    )
    labels = pd.DataFrame(index=table.index)
    labels[schema.BROAD_SAMPLE] = sample
    labels[schema.PERT_NAME] = table[name].where(table[name] != "", sample)
    labels[schema.PERT_TYPE] = _pert_types(table, labels[schema.PERT_NAME], path, columns)
    labels[schema.JCP2022] = column_text(table, "jcp2022")
    labels[schema.TARGET] = table[target] if target else ""
    _name_controls(labels)
    for column in own:
        if f"Metadata_{column}" not in labels:
            labels[f"Metadata_{column}"] = table[column]
    return labels


def _join(table: pd.DataFrame, path: Path, metadata: pd.DataFrame, other: Path) -> pd.DataFrame:
    """Add the metadata of each well's broad_sample; an empty one may have its row there, too."""
    for columns, file in ((table.columns, path), (metadata.columns, other)):
        if "broad_sample" not in columns:
            raise CellpipeDataError(
                f"{file} has no column broad_sample, by which platemap and metadata are joined; "
                f"it has {list(columns)}"
            )
    repeated = metadata["broad_sample"][metadata["broad_sample"].duplicated()]
    if len(repeated):
        raise CellpipeDataError(f"{other}: broad_sample {some(repeated)} is there twice")
    unknown = set(table["broad_sample"]) - set(metadata["broad_sample"]) - {""}
    if unknown:
        raise CellpipeDataError(
            f"{other} lacks {len(unknown)} broad_sample of {path}: {some(sorted(unknown))}. "
            "Is it the metadata of another library?"
        )
    added = metadata.set_index("broad_sample")
    added = added[[column for column in added if column not in table]]
    return table.join(added.reindex(table["broad_sample"]).set_axis(table.index).fillna(""))


def _pert_types(
    table: pd.DataFrame, name: pd.Series, path: Path, columns: PlatemapColumns
) -> pd.Series:
    column = _column(table, path, columns.pert_type, ("pert_type",), "pert_type")
    kind = table[column] if column else pd.Series("", index=table.index)
    kind = kind.replace(text_keys(columns.types))
    if columns.pert_type is None:
        control = column_text(table, "control_type")
        kind = kind.mask(control.str.startswith("poscon"), "poscon")
        kind = kind.mask(control == schema.NEGCON, schema.NEGCON)
        kind = kind.mask(_is_dmso(table, name), schema.NEGCON)
        nothing = (name == "") | (column_text(table, "jcp2022") == EMPTY_JCP2022)
        kind = kind.mask((kind == "") & nothing, "empty").mask((kind == "") & ~nothing, "trt")
    wrong = kind[~kind.isin(PERT_TYPES)]
    if len(wrong):
        raise CellpipeDataError(
            f"{path}: pert_type of well {wrong.index[0]} is {wrong.iloc[0]!r}, expected one of "
            f"{PERT_TYPES}. Translate it with pert_types"
        )
    return kind


def _is_dmso(table: pd.DataFrame, name: pd.Series) -> pd.Series:
    solvent_only = (name == "") & (column_text(table, "solvent").str.upper() == "DMSO")
    return (
        (name.str.upper() == "DMSO")
        | (column_text(table, "jcp2022") == schema.DMSO_JCP2022)
        | solvent_only
    )


def _name_controls(labels: pd.DataFrame) -> None:
    """Give DMSO and empty wells their one name and identifier, whatever the tables call them."""
    kind, name = labels[schema.PERT_TYPE], labels[schema.PERT_NAME]
    dmso = (kind == schema.NEGCON) & (name.isin(["", "DMSO"]) | name.str.upper().eq("DMSO"))
    dmso |= labels[schema.JCP2022] == schema.DMSO_JCP2022
    labels.loc[dmso, [schema.PERT_NAME, schema.JCP2022]] = ["DMSO", schema.DMSO_JCP2022]
    labels.loc[kind == "empty", schema.JCP2022] = EMPTY_JCP2022


def _column(
    table: pd.DataFrame, path: Path, option: str | None, usual: Iterable[str], what: str
) -> str | None:
    """Return the column that the option names, else the first of the usual ones that is there."""
    if option is None:
        return find_column(table, usual)
    column = option.removeprefix("Metadata_")
    if column not in table:
        raise CellpipeDataError(
            f"{path} has no column {option!r}, named as its {what}; it has {list(table.columns)}"
        )
    return column
