"""Names of wells and the plates they lie on."""

import re
from collections.abc import Iterable

from cellpipe import schema
from cellpipe.errors import CellpipeDataError

FORMATS = ((8, 12), (16, 24), (32, 48))
"""Rows and columns of plates of 96, 384 and 1536 wells."""

_WELL = re.compile(r"([A-Za-z]{1,2})0*([1-9][0-9]?)")


def parse_well(name: str) -> tuple[int, int]:
    """Zero-based row and column of a well: ``B7`` and ``B07`` are (1, 6), ``AA01`` is (26, 0).

    Raises
    ------
    CellpipeDataError
        If `name` is not a letter or two followed by a number, or lies on no plate of `FORMATS`.
    """
    match = _WELL.fullmatch(name.strip())
    if match:
        letters, number = match.group(1).upper(), int(match.group(2))
        row = (
            ord(letters[-1])
            - ord("A")
            + (26 * (ord(letters[0]) - ord("A") + 1)) * (len(letters) - 1)
        )
        if inside((row, number - 1), FORMATS[-1]):
            return row, number - 1
    raise CellpipeDataError(
        f"{name!r} is not a well: expected a row A to AF and a column 1 to 48, such as B07"
    )


def pad_well(name: str) -> str:
    """Name of a well as JUMP writes it: ``B7`` becomes ``B07``."""
    return schema.well_name(*parse_well(name))


def well_from_parts(row: str, column: str) -> str:
    """Well of a row, by letter or by one-based number, and a one-based column."""
    letter = schema.well_name(int(row) - 1, 0)[:-2] if row.strip().isdigit() else row.strip()
    return pad_well(f"{letter}{column.strip()}")


def inside(well: tuple[int, int], shape: tuple[int, int]) -> bool:
    """Whether a well lies on a plate of `shape` rows and columns."""
    return 0 <= well[0] < shape[0] and 0 <= well[1] < shape[1]


def plate_format(wells: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Rows and columns of the plate that `wells` lie on, where the source does not say.

    It has 96 wells if all lie on such a plate, else 384, else 1536 if more than a tenth of them
    lie outside of 384: a few odd ones among many are a mistake in the source.
    """
    wells = set(wells)
    for shape, tolerated in zip(FORMATS, (0.0, 0.1, 1.0), strict=True):
        if sum(not inside(well, shape) for well in wells) <= tolerated * len(wells):
            return shape
    return FORMATS[-1]
