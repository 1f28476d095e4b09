from pathlib import Path

import pandas as pd
import pytest

from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.readers import read_plate

DATA = Path(__file__).parents[3] / "shared" / "data"

IMAGE = """<Image Version="1"><id>x</id><URL>{url}</URL><Row>{row}</Row><Col>2</Col>
<FieldID>3</FieldID><PlaneID>{plane}</PlaneID><ChannelID>{channel}</ChannelID>
<ChannelName>{name}</ChannelName>
<ImageResolutionX Unit="m">{size}</ImageResolutionX>
<ImageResolutionY Unit="m">{size}</ImageResolutionY></Image>"""


def write_index(folder: Path, images: list[dict]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    default = {"row": 1, "plane": 1, "channel": 1, "name": "HOECHST 33342", "size": "5.98E-07"}
    texts = [IMAGE.format(**{**default, "url": f"{n}.tiff", **i}) for n, i in enumerate(images)]
    (folder / "Index.idx.xml").write_text(
        '<EvaluationInputData xmlns="http://www.perkinelmer.com/PEHH/HarmonyV5"><Plates><Plate>'
        "<PlateID>id</PlateID><Name>P1</Name><PlateRows>16</PlateRows>"
        "<PlateColumns>24</PlateColumns></Plate></Plates>"
        '<Wells><Well><Image id="x"/></Well></Wells>'
        f"<Images>{''.join(texts)}</Images></EvaluationInputData>"
    )
    return folder


def test_names_pixel_size_and_plate(tmp_path):
    names = ["Alexa 647", "HOECHST 33342", "Cy7, odd)"]
    source = write_index(tmp_path, [{"channel": n + 1, "name": x} for n, x in enumerate(names)])
    plate = read_plate(source, channels={"3": "Actin"})
    assert (plate.name, plate.layout, plate.shape) == ("P1", "harmony", (16, 24))
    assert plate.channels == ("Mito", "DNA", "Actin")
    assert plate.pixel_size_um == pytest.approx(0.598)
    image = plate.images[2]
    assert (image.well, image.site, image.channel) == ("A02", 3, "Actin")
    assert image.path == tmp_path / "2.tiff"
    assert read_plate(source, channels={"Cy7, odd)": "X"}).channels[2] == "X"
    assert read_plate(source, channels={"HOECHST 33342": "Nuclei"}).channels[1] == "Nuclei"
    assert read_plate(source).channels[2] == "Cy7, odd)"


def test_planes_of_one_name_are_numbered_or_named(tmp_path, caplog):
    source = write_index(tmp_path, [{"channel": n, "name": "Brightfield"} for n in (6, 7, 10)])
    plate = read_plate(source)
    assert plate.channels == ("Brightfield", "Brightfield_2", "Brightfield_3")
    assert "channel 7 becomes 'Brightfield_2'" in caplog.text
    named = read_plate(source, channels={6: "HighZBF", 7: "LowZBF"})
    assert named.channels == ("HighZBF", "LowZBF", "Brightfield")
    with pytest.raises(CellpipeValueError, match="would both be called 'BF'"):
        read_plate(source, channels={6: "BF", 7: "BF"})


def test_images_folder_and_options(tmp_path, caplog):
    write_index(tmp_path / "plate" / "Images", [{}])
    plate = read_plate(tmp_path / "plate", plate="mine", pixel_size_um=0.65)
    assert (plate.name, plate.pixel_size_um) == ("mine", 0.65)
    assert "pixel_size_um is given as 0.65, the source says 0.598" in caplog.text
    read_plate(tmp_path / "plate", channels={"Hoechst": "DNA"})
    assert "`channels` names ['Hoechst'], but the plate has ['1 (HOECHST 33342)']" in caplog.text


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([{"plane": 1}, {"plane": 2}], r"one plane per channel, got .*'1': \['1', '2'\]"),
        ([{}, {"channel": 2, "name": "x", "size": "1.2E-06"}], "one pixel size for all channels"),
        ([], "lists no images"),
    ],
)
def test_index_that_cannot_be_used(tmp_path, images, message):
    with pytest.raises(CellpipeDataError, match=message):
        read_plate(write_index(tmp_path, images))


def test_damaged_index(tmp_path):
    source = write_index(tmp_path, [{}])
    index = source / "Index.idx.xml"
    index.write_text(index.read_text()[:-60])
    with pytest.raises(CellpipeDataError, match="not a readable Harmony index"):
        read_plate(source)


def test_without_index_channels_must_be_named(tmp_path):
    folder = tmp_path / "BR1__2020-11-08T18_18-Measurement1" / "Images"
    folder.mkdir(parents=True)
    for channel in (2, 10):
        (folder / f"r02c11f09p01-ch{channel}sk1fk1fl1.tiff").touch()
    with pytest.raises(CellpipeValueError, match="so its channel numbers have no names"):
        read_plate(folder)
    plate = read_plate(folder, channels={1: "Mito", 2: "AGP"})
    assert (plate.name, plate.layout, plate.pixel_size_um) == ("BR1", "harmony", None)
    assert plate.channels == ("Mito", "AGP", "10")
    assert (plate.images[1].well, plate.images[1].site) == ("B11", 9)
    (folder / "r02c11f09p02-ch2sk1fk1fl1.tiff").touch()
    with pytest.raises(CellpipeDataError, match=r"planes by channel \{'2': \[1, 2\]\}"):
        read_plate(folder, channels={1: "Mito", 2: "AGP"})


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "table", "channels"),
    [
        ("hcs_harmony_phenix_BR00121482/Version1", "load_data_version1.csv", {}),
        (
            "hcs_harmony_V7_index_only/Version7",
            "load_data_version7.csv",
            {"Alexa 488 Em 650": "RNA", "405ex, 570-630-em)": "Actin"},
        ),
    ],
)
def test_real_index_agrees_with_its_load_data(folder, table, channels):
    folder = DATA / folder
    if not folder.exists():
        pytest.skip(f"{folder} is not here")
    expected = pd.read_csv(folder / table).iloc[0]
    plate = read_plate(folder / "images", channels=channels)
    files = {image.channel: image.path.name for image in plate.images}
    golden = expected.filter(like="FileName_").rename(lambda c: c.removeprefix("FileName_Orig"))
    assert files == golden.to_dict()
    assert plate.name == expected["Metadata_Plate"]
    assert plate.pixel_size_um == pytest.approx(expected["Metadata_ImageResolutionX"] * 1e6)
    assert {(i.well, i.site) for i in plate.images} == {("A01", 1)}
    assert plate.shape == ((16, 24) if "phenix" in str(folder) else (8, 12))
