import pytest

from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.readers import read_plate

TRANSLOCATION = r"Channel(?P<channel>[12])-\d+-(?P<row>[A-H])-(?P<column>\d+)\.tif"
NF1 = r"(?P<well>[A-H]\d+)_01_\d_(?P<site>\d+)_(?P<channel>DAPI|GFP|RFP)_001\.tif"


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_row_and_column(tmp_path):
    source = touch(tmp_path / "SBS", "Channel1-07-A-07.tif", "Channel2-07-A-07.tif", "notes.txt")
    plate = read_plate(source, file_pattern=TRANSLOCATION, channels={1: "GFP", 2: "DNA"})
    assert (plate.name, plate.layout, plate.channels) == ("SBS", "pattern", ("GFP", "DNA"))
    images = [(i.well, i.site, i.channel, i.path.name) for i in plate.images]
    assert images == [
        ("A07", 1, "GFP", "Channel1-07-A-07.tif"),
        ("A07", 1, "DNA", "Channel2-07-A-07.tif"),
    ]


def test_well_and_site(tmp_path):
    source = touch(tmp_path / "P", "B7_01_1_3_DAPI_001.tif", "B7_01_3_3_RFP_001.tif")
    plate = read_plate(source, file_pattern=NF1, plate="Plate_2", pixel_size_um=0.3)
    assert (plate.name, plate.pixel_size_um) == ("Plate_2", 0.3)
    assert {(i.well, i.site) for i in plate.images} == {("B7", 3)}
    assert plate.channels == ("DAPI", "RFP")


def test_channel_numbers_sort_as_numbers(tmp_path):
    source = touch(tmp_path / "P", "A1-10.tif", "A1-9.tif")
    plate = read_plate(source, file_pattern=r"(?P<well>A1)-(?P<channel>\d+)\.tif")
    assert plate.channels == ("9", "10")


@pytest.mark.parametrize(
    ("pattern", "error", "message"),
    [
        ("(", CellpipeValueError, "not a regular expression"),
        (r"(?P<well>\w+)\.tif", CellpipeValueError, r"expected the named groups .* got \['well'\]"),
        (r"(?P<well>\w+)_(?P<channel>\d)\.png", CellpipeDataError, "none of 1 file names matches"),
    ],
)
def test_wrong_patterns(tmp_path, pattern, error, message):
    with pytest.raises(error, match=message):
        read_plate(touch(tmp_path / "P", "A1_1.tif"), file_pattern=pattern)


def test_unknown_layouts(tmp_path):
    source = touch(tmp_path / "P", "A1_1.tif")
    with pytest.raises(CellpipeDataError, match="no known layout"):
        read_plate(source)
    with pytest.raises(CellpipeValueError, match="expected auto or one of"):
        read_plate(source, layout="imagexpress")
    with pytest.raises(CellpipeValueError, match="needs file_pattern"):
        read_plate(source, layout="pattern")
    with pytest.raises(CellpipeValueError, match="file_pattern belongs to layout pattern"):
        read_plate(source, layout="harmony", file_pattern="x")
    with pytest.raises(CellpipeValueError, match="image_root belongs to layout load_data"):
        read_plate(source, layout="harmony", image_root=source)
    with pytest.raises(CellpipeDataError, match="does not exist"):
        read_plate(tmp_path / "nowhere")
