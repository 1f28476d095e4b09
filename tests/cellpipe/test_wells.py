import pytest

from cellpipe.errors import CellpipeDataError
from cellpipe.wells import pad_well, parse_well, plate_format, well_from_parts


@pytest.mark.parametrize(
    ("name", "padded", "position"),
    [
        ("B7", "B07", (1, 6)),
        ("b07", "B07", (1, 6)),
        ("P24", "P24", (15, 23)),
        ("AA1", "AA01", (26, 0)),
        ("AF48", "AF48", (31, 47)),
    ],
)
def test_well_names(name, padded, position):
    assert parse_well(name) == position
    assert pad_well(name) == padded


@pytest.mark.parametrize("name", ["", "7", "A", "A0", "A49", "AG1", "A1B", "1A", "AAA1"])
def test_what_is_no_well(name):
    with pytest.raises(CellpipeDataError, match="is not a well"):
        parse_well(name)


def test_well_from_parts():
    assert well_from_parts("B", "07") == well_from_parts("2", "7") == "B07"
    assert well_from_parts("27", "1") == "AA01"
    with pytest.raises(CellpipeDataError):
        well_from_parts("", "7")


def test_plate_format():
    assert plate_format({(0, 0), (7, 11)}) == (8, 12)
    assert plate_format({(0, 0), (8, 0)}) == (16, 24)
    many = {(row, column) for row in range(8) for column in range(12)}
    assert plate_format(many | {(19, 0)}) == (16, 24)
    assert plate_format(many | {(row, 30) for row in range(32)}) == (32, 48)
    assert plate_format(set()) == (8, 12)
