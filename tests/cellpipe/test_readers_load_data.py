import pandas as pd
import pytest

from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.readers import read_plate

ROW = {
    "FileName_OrigDNA": "a-ch5.tiff",
    "PathName_OrigDNA": "/home/ubuntu/in/P1__2020/Images/",
    "FileName_OrigER": "a-ch4.tiff",
    "PathName_OrigER": "/home/ubuntu/in/P1__2020/Images/",
    "FileName_IllumDNA": "P1_IllumDNA.npy",
    "PathName_IllumDNA": "/home/ubuntu/illum",
    "Metadata_Plate": "P1",
    "Metadata_Well": "B7",
    "Metadata_Site": 3,
    "Metadata_ImageResolutionX": 5.98e-07,
}


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame([{**ROW, **row} for row in rows])
    table.to_parquet(path) if path.suffix == ".parquet" else table.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", ["load_data.csv", "load_data.csv.gz", "load_data.parquet"])
def test_columns(tmp_path, name):
    path = write(tmp_path / "workspace" / name, {}, {"Metadata_Site": 4, "FileName_OrigER": None})
    for source in (path, path.parent):
        plate = read_plate(source)
        assert (plate.name, plate.layout, plate.channels) == ("P1", "load_data", ("DNA", "ER"))
        assert plate.pixel_size_um == pytest.approx(0.598)
        assert plate.shape is None
        images = [(i.well, i.site, i.channel, str(i.path)) for i in plate.images]
        assert images == [
            ("B7", 3, "DNA", "/home/ubuntu/in/P1__2020/Images/a-ch5.tiff"),
            ("B7", 4, "DNA", "/home/ubuntu/in/P1__2020/Images/a-ch5.tiff"),
            ("B7", 3, "ER", "/home/ubuntu/in/P1__2020/Images/a-ch4.tiff"),
        ]
    assert read_plate(path, channels={"DNA": "Nuclei"}).channels == ("Nuclei", "ER")


def test_relative_paths_start_at_the_table(tmp_path):
    path = write(tmp_path / "load_data.csv", {"PathName_OrigDNA": "images"})
    assert read_plate(path).images[0].path == tmp_path / "images" / "a-ch5.tiff"


def test_image_root_finds_files_by_name_and_folder(tmp_path):
    path = write(tmp_path / "load_data.csv", {})
    root = tmp_path / "here"
    for plate in ("P1__2020", "P2__2020"):
        (root / plate / "Images").mkdir(parents=True)
        (root / plate / "Images" / "a-ch5.tiff").touch()
    dna, er = read_plate(path, image_root=root).images
    assert dna.path == root / "P1__2020" / "Images" / "a-ch5.tiff"
    assert er.path == root / "a-ch4.tiff"
    assert not er.path.exists()
    (root / "P1__2020").rename(root / "P0")
    (root / "P2__2020").rename(root / "P9")
    with pytest.raises(CellpipeDataError, match="holds 2 files of that name"):
        read_plate(path, image_root=root)
    with pytest.raises(CellpipeValueError, match="is not a folder"):
        read_plate(path, image_root=tmp_path / "none")


def test_urls(tmp_path):
    image = tmp_path / "with space.tiff"
    columns = {"Metadata_Plate": ["P1"], "Metadata_Well": ["A01"], "Metadata_Site": ["1"]}
    path = tmp_path / "load_data.csv"
    pd.DataFrame({**columns, "URL_OrigDNA": [image.as_uri()]}).to_csv(path, index=False)
    assert read_plate(path).images[0].path == image
    pd.DataFrame({**columns, "URL_OrigDNA": ["s3://bucket/x/a.tiff"]}).to_csv(path, index=False)
    with pytest.raises(CellpipeValueError, match=r"s3://bucket/x/a.tiff is not on this machine"):
        read_plate(path)
    assert read_plate(path, image_root=tmp_path).images[0].path == tmp_path / "a.tiff"


def test_several_plates(tmp_path):
    path = write(tmp_path / "load_data.csv", {}, {"Metadata_Plate": "P2", "Metadata_Well": "C03"})
    with pytest.raises(CellpipeValueError, match=r"2 plates, \['P1', 'P2'\]"):
        read_plate(path)
    assert {image.well for image in read_plate(path, plate="P2").images} == {"C03"}
    with pytest.raises(CellpipeValueError, match="expected plate 'P3'"):
        read_plate(path, plate="P3")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["Metadata_Well"], "no column Metadata_Site"),
        (["PathName_OrigDNA"], "no column PathName_OrigDNA"),
        (
            ["FileName_OrigDNA", "FileName_OrigER", "PathName_OrigDNA", "PathName_OrigER"],
            "no column FileName_<channel>",
        ),
    ],
)
def test_missing_columns(tmp_path, columns, message):
    path = tmp_path / "load_data.csv"
    dropped = ["Metadata_Site"] if columns == ["Metadata_Well"] else columns
    pd.DataFrame([ROW]).drop(columns=dropped).to_csv(path, index=False)
    with pytest.raises(CellpipeDataError, match=message):
        read_plate(path)


def test_site_and_pixel_size_must_be_numbers_that_agree(tmp_path):
    with pytest.raises(CellpipeDataError, match="Metadata_Site is 's1'"):
        read_plate(write(tmp_path / "a" / "load_data.csv", {"Metadata_Site": "s1"}))
    rows = [{}, {"Metadata_ImageResolutionX": 6.5e-07}]
    with pytest.raises(CellpipeDataError, match="expected one Metadata_ImageResolutionX"):
        read_plate(write(tmp_path / "b" / "load_data.csv", *rows))
