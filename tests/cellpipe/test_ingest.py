"""Every way in which a plate can be bad, on TIFFs of 64 x 64 pixels."""

import errno
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr

from cellpipe import fields, schema
from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.files import read_table_metadata
from cellpipe.ingest import ingest
from cellpipe.plate import Plate
from cellpipe.platemap import PlatemapColumns

CHANNELS = {"1": "DNA", "2": "ER"}
FIELDS = [("A01", 1), ("A01", 2), ("B02", 1), ("B02", 2)]


def file_of(folder: Path, well: str, site: int, channel: int) -> Path:
    row, column = ord(well[0]) - ord("A") + 1, int(well[1:])
    return folder / f"r{row:02d}c{column:02d}f{site:02d}p01-ch{channel}sk1fk1fl1.tiff"


def pixels(well: str, site: int, channel: int, shape=(64, 64), dtype=np.uint16) -> np.ndarray:
    seed = int(hashlib.sha256(f"{well}{site}{channel}".encode()).hexdigest()[:8], 16)
    return np.random.default_rng(seed).integers(1, 250, shape).astype(dtype)


def draw(folder: Path, **kwargs) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for well, site in FIELDS:
        for channel in (1, 2):
            image = pixels(well, site, channel, **kwargs)
            tifffile.imwrite(file_of(folder, well, site, channel), image, compression="lzw")
    return folder


@pytest.fixture
def source(tmp_path):
    return draw(tmp_path / "P1")


def run(source: Path, **options) -> tuple[Plate, pd.DataFrame]:
    out = source.parent / "out"
    paths = {"store": out / "P1.zarr", "sites": out / "P1.sites.parquet"}
    options = {"channels": CHANNELS, **paths, "quarantine": out / "P1.quarantine.csv", **options}
    ingest(source, **options)
    return Plate.open(options["sites"]), pd.read_csv(options["quarantine"], keep_default_na=False)


def test_site_table(source):
    plate, quarantine = run(source, batch="b1", source_name="s1", pixel_size_um=0.6)
    quality = [f"QC_{c}_{m}" for c in ("DNA", "ER") for m in ("mean", "saturated", "focus")]
    place = ["store", "image", "height", "width"]
    assert list(plate.sites.columns) == [*schema.SITE_KEY, *place, *quality]
    first = plate.sites.iloc[0]
    assert list(first[list(schema.SITE_KEY)]) == ["s1", "b1", "P1", "A01", 1]
    assert plate.sites[schema.SITE].dtype == np.int32
    assert (first["store"], first["image"]) == ("P1.zarr", "A/01/1")
    assert (first["height"], first["width"]) == (64, 64)
    assert first["QC_DNA_mean"] == pytest.approx(pixels("A01", 1, 1).mean())
    assert quarantine.empty
    assert list(quarantine.columns) == [
        *("Metadata_Plate", "Metadata_Well", "Metadata_Site", "channel", "file", "reason")
    ]
    assert json.loads(read_table_metadata(plate.path)["cellpipe"]) == {
        "channels": ["DNA", "ER"],
        "pixel_size_um": 0.6,
        "layout": "harmony",
        "source": str(source),
        "version": 1,
        "missing_channels": [],
    }


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pixels_are_unchanged(tmp_path, dtype):
    plate, _ = run(draw(tmp_path / "P1", dtype=dtype))
    for row, (well, site) in enumerate(FIELDS):
        expected = np.stack([pixels(well, site, channel) for channel in (1, 2)])
        image = plate.read(row)
        assert image.dtype == np.uint16
        np.testing.assert_array_equal(image, expected)


def test_palette_gives_indices(source):
    path = file_of(source, "A01", 1, 1)
    indices = pixels("A01", 1, 1, dtype=np.uint8)
    colours = np.full((3, 256), 7, np.uint16)
    for field in FIELDS:
        tifffile.imwrite(file_of(source, *field, 1), indices, photometric=3, colormap=colours)
    assert tifffile.TiffFile(path).pages.first.photometric.name == "PALETTE"
    plate, quarantine = run(source)
    assert quarantine.empty
    np.testing.assert_array_equal(plate.read(0, ["DNA"])[0], indices)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-2000])


def write(image, **kwargs):
    return lambda path: tifffile.imwrite(path, image, **kwargs)


BAD = {
    "missing": (Path.unlink, "lists none for this channel"),
    "truncated": (truncate, "unreadable"),
    "empty file": (lambda path: path.write_bytes(b""), "unreadable"),
    "zero-filled file": (lambda path: path.write_bytes(bytes(9000)), "unreadable"),
    "zero pixels": (write(np.zeros((64, 64), np.uint16)), "all pixels are 0"),
    "constant pixels": (write(np.full((64, 64), 99, np.uint16)), "all pixels are 99"),
    "shape": (write(pixels("A01", 1, 1, shape=(32, 64))), r"shape \(32, 64\), most .* \(64, 64\)"),
    "floats": (write(np.ones((64, 64), np.float32)), "type float32"),
    "8 of 16 bit": (write(pixels("A01", 1, 1, dtype=np.uint8)), "type uint8, most .* uint16"),
    "colours": (write(np.ones((64, 64, 3), np.uint8), photometric="rgb"), "is RGB"),
    "pages": (write(np.ones((2, 64, 64), np.uint16)), "holds 2 pages"),
}


@pytest.mark.parametrize(("damage", "reason"), BAD.values(), ids=BAD)
def test_bad_image_goes_to_quarantine(source, damage, reason):
    damage(file_of(source, "A01", 2, 1))
    plate, quarantine = run(source)
    kept = list(zip(plate.sites[schema.WELL], plate.sites[schema.SITE], strict=True))
    assert kept == [("A01", 1), ("B02", 1), ("B02", 2)]
    assert len(quarantine) == 1
    row = quarantine.iloc[0]
    assert list(row[:4]) == ["P1", "A01", 2, "DNA"]
    assert pd.Series([row["reason"]]).str.contains(reason, regex=True).all(), row["reason"]
    if "lists none" not in reason:
        assert row["file"] == str(file_of(source, "A01", 2, 1))
    assert not (plate.label_root() / "A" / "01" / "2").exists()


def test_whole_field_of_another_shape_is_not_left_in_the_plate(source):
    for channel in (1, 2):
        path = file_of(source, "A01", 2, channel)
        tifffile.imwrite(path, pixels("A01", 2, channel, shape=(80, 80)))
    plate, quarantine = run(source)
    assert list(quarantine["channel"]) == ["DNA", "ER"]
    assert not (plate.label_root() / "A" / "01" / "2").exists()
    well = zarr.open_group(plate.label_root() / "A" / "01", mode="r").attrs["ome"]["well"]
    assert [image["path"] for image in well["images"]] == ["1"]


def test_two_files_of_one_channel(source):
    path = file_of(source, "A01", 2, 1)
    path.with_suffix(".tif").write_bytes(path.read_bytes())
    plate, quarantine = run(source)
    assert len(plate.sites) == 3
    assert quarantine["reason"].str.contains("several files").all()
    assert len(quarantine) == 1


def test_well_outside_the_plate(source):
    """Row 20 of a plate of 16 rows; the other three fields are enough to call it one of 384."""
    for channel in (1, 2):
        path = file_of(source, "A01", 2, channel)
        path.rename(file_of(source, "A01", 2, channel).with_name(path.name.replace("r01", "r20")))
        for column in range(1, 13):
            tifffile.imwrite(file_of(source, f"P{column:02d}", 1, channel), pixels("P", 1, channel))
    plate, quarantine = run(source)
    assert len(plate.sites) == 3 + 12
    assert list(quarantine[schema.WELL]) == ["T01", "T01"]
    assert quarantine["reason"].str.contains("outside the plate of 16 rows").all()


def test_channel_without_any_file_is_missing(source):
    plate, quarantine = run(source, channels={**CHANNELS, "3": "Mito"})
    assert plate.channels == ("DNA", "ER")
    assert plate.missing_channels == ("Mito",)
    assert len(plate.sites) == 4
    assert quarantine.empty


def test_no_usable_field(source):
    for field in FIELDS:
        truncate(file_of(source, *field, 1))
    with pytest.raises(CellpipeDataError, match=r"none of 4 fields .* unreadable"):
        run(source)
    out = source.parent / "out"
    assert len(pd.read_csv(out / "P1.quarantine.csv")) == 4
    assert not (out / "P1.sites.parquet").exists()


def shard(plate_store: Path, image: str) -> Path:
    return plate_store / image / "0" / "c" / "0" / "0" / "0"


def test_second_run_keeps_unchanged_fields(source):
    plate, _ = run(source)
    before = {image: shard(plate.label_root(), image).stat() for image in plate.sites["image"]}
    changed = file_of(source, "A01", 2, 1)
    tifffile.imwrite(changed, pixels("other", 1, 1))
    again, _ = run(source)
    for image, old in before.items():
        same = shard(again.label_root(), image).stat().st_ino == old.st_ino
        assert same == (image != "A/01/2")
    np.testing.assert_array_equal(again.read(1, ["DNA"])[0], pixels("other", 1, 1))
    unchanged = [0, 2, 3]
    pd.testing.assert_frame_equal(again.sites.iloc[unchanged], plate.sites.iloc[unchanged])
    assert again.sites["QC_DNA_mean"].iloc[1] == pytest.approx(pixels("other", 1, 1).mean())


def test_fields_that_left_the_source_leave_the_plate(source):
    plate, _ = run(source)
    for channel in (1, 2):
        for site in (1, 2):
            file_of(source, "B02", site, channel).unlink()
    run(source)
    assert not (plate.label_root() / "B" / "02").exists()


def test_killed_run_leaves_nothing_complete(source, monkeypatch):
    whole = fields.write_image

    def killed(path, image, **kwargs):
        if "2" in path.name:
            raise KeyboardInterrupt
        whole(path, image, **kwargs)

    run(source)  # an older complete run of the same plate
    for field in FIELDS:
        tifffile.imwrite(file_of(source, *field, 1), pixels("newer", 1, 1))
    monkeypatch.setattr(fields, "write_image", killed)
    with pytest.raises(KeyboardInterrupt):
        run(source)
    out = source.parent / "out"
    assert not (out / "P1.sites.parquet").exists()
    assert not (out / "P1.quarantine.csv").exists()
    assert "ome" not in zarr.open_group(out / "P1.zarr", mode="r").attrs
    monkeypatch.undo()
    first = shard(out / "P1.zarr", "A/01/1").stat().st_ino
    plate, _ = run(source)
    assert shard(out / "P1.zarr", "A/01/1").stat().st_ino == first
    np.testing.assert_array_equal(plate.read(3, ["DNA"])[0], pixels("newer", 1, 1))


def test_full_disk(source, monkeypatch):
    written = []
    whole = zarr.Array.__setitem__

    def full(array, selection, image):
        whole(array, selection, image)
        written.append(array.path)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zarr.Array, "__setitem__", full)
    with pytest.raises(CellpipeDataError, match=r"P1.zarr/A/01/2 .*No space left.*run the same"):
        run(source)
    store = source.parent / "out" / "P1.zarr"
    assert [path.name for path in (store / "A" / "01").iterdir()] == ["1"]
    assert not (source.parent / "out" / "P1.sites.parquet").exists()
    monkeypatch.undo()
    plate, quarantine = run(source)
    assert len(plate.sites) == 4
    assert quarantine.empty


def test_store_that_is_something_else_is_not_touched(source):
    with pytest.raises(CellpipeValueError, match="not a plate that was ingested here"):
        run(source, store=source)
    assert len(list(source.iterdir())) == 8


def test_platemap_labels_the_sites(source):
    platemap = source.parent / "map.csv"
    platemap.write_text("well,pert_name,pert_type,dose\nA1,DMSO,negcon,0\nB2,taxol,trt,3\n")
    plate, _ = run(source, platemap=platemap)
    assert list(plate.sites[schema.PERT_NAME]) == ["DMSO", "DMSO", "taxol", "taxol"]
    assert list(plate.sites["Metadata_dose"]) == ["0", "0", "3", "3"]


def test_wrong_platemap_stops_before_any_pixel_is_read(source):
    plate, _ = run(source)
    platemap = source.parent / "map.csv"
    platemap.write_text("well,pert_name\nA1,DMSO\n")
    with pytest.raises(CellpipeDataError, match="lacks wells B02 of plate P1"):
        run(source, platemap=platemap)
    assert plate.path.exists()
    with pytest.raises(CellpipeValueError, match="give `platemap`"):
        run(source, platemap_columns=PlatemapColumns(pert_name="dose"))


def test_display(source):
    plate, _ = run(source)
    group = zarr.open_group(plate.label_root() / "A" / "01" / "1", mode="r")
    channels = group.attrs["ome"]["omero"]["channels"]
    named = [(channel["label"], channel["color"]) for channel in channels]
    assert named == [("DNA", "0000FF"), ("ER", "00FF00")]
    low, high = np.percentile(pixels("A01", 1, 1)[::4, ::4], (0.1, 99.9))
    window = {"min": 0, "max": 65535, "start": int(low), "end": int(high)}
    assert channels[0]["window"] == window


def test_unknown_pixel_size_has_no_unit(source):
    plate, _ = run(source)
    assert plate.pixel_size_um is None
    group = zarr.open_group(plate.label_root() / "A" / "01" / "1", mode="r")
    assert not any("unit" in axis for axis in group.attrs["ome"]["multiscales"][0]["axes"])


@pytest.mark.slow
def test_processes_give_the_same(source):
    plate, _ = run(source)
    parallel, _ = run(source, jobs=2, store=source.parent / "out" / "other.zarr")
    columns = [column for column in plate.sites if column != "store"]
    pd.testing.assert_frame_equal(parallel.sites[columns], plate.sites[columns])
    np.testing.assert_array_equal(parallel.read(3), plate.read(3))


VALIDATORS = {
    "yaozarrs": "import sys, yaozarrs; yaozarrs.validate_zarr_store(sys.argv[1])",
    "ome_zarr_models": """
import sys, zarr
from ome_zarr_models.v05.hcs import HCS
plate = HCS.from_zarr(zarr.open_group(sys.argv[1], mode="r"))
assert [len(plate.get_well_group(i).attributes.ome.well.images) for i in (0, 1)] == [2, 2]
""",
    "ngio": """
import sys, ngio
field = ngio.open_ome_zarr_plate(sys.argv[1]).get_image("A", "01", "1")
assert field.get_label("nuclei").get_array().max() == 1
image = field.get_image()
assert image.channel_labels == ["DNA", "ER"] and image.pixel_size.x == 0.6
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("validator", VALIDATORS)
def test_other_readers_accept_the_plate(source, validator):
    """In a process each: ngio, imported first, breaks ome-zarr-models."""
    pytest.importorskip("ome_zarr_models" if validator == "ome_zarr_models" else validator)
    plate, _ = run(source, pixel_size_um=0.6)
    plate.write_labels(0, np.eye(64, dtype=np.uint32))
    command = [sys.executable, "-c", VALIDATORS[validator], str(plate.label_root())]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
