import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr

from cellpipe import schema
from cellpipe.errors import CellpipeDataError
from cellpipe.ingest import ingest
from cellpipe.plate import Plate
from cellpipe.readers import read_plate

DATA = Path(__file__).parents[3] / "shared" / "data"
MOBIE = DATA / "omezarr_hcs_v04_mobie" / "single-plane-hcs.zarr"


def real(path):
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


def draw(store, images, *, version=0.5, axes="cyx", unit="micrometer", labels=("DNA", "ER")):
    """A plate of `images`, path to array; OME-Zarr 0.4 is Zarr 2, 0.5 is Zarr 3."""
    zarr_format = 2 if version == 0.4 else 3

    def put(path, **entry):
        group = zarr.open_group(store / path, mode="a", zarr_format=zarr_format)
        group.attrs.update(entry if zarr_format == 2 else {"ome": entry})
        return group

    wells = sorted({path.rpartition("/")[0] for path in images})
    put("", plate={"name": "Z1", "wells": [{"path": well} for well in wells]})
    for well in wells:
        fields = [path.rpartition("/")[2] for path in images if path.startswith(f"{well}/")]
        put(well, well={"images": [{"path": field} for field in fields]})
    for path, image in images.items():
        scale = {"type": "scale", "scale": [1.0] * (len(axes) - 2) + [0.3, 0.3]}
        multiscale = {
            "axes": [{"name": a, **({"unit": unit} if unit and a in "yx" else {})} for a in axes],
            "datasets": [{"path": "0", "coordinateTransformations": [scale]}],
        }
        omero = {"channels": [{"label": label} for label in labels]}
        group = put(path, multiscales=[multiscale], omero=omero)
        group.create_array("0", data=image)
    return store


def random(seed=0, shape=(2, 16, 20), dtype="uint16"):
    return np.random.default_rng(seed).integers(1, 200, shape).astype(dtype)


def run(source, **options):
    out = source.parent / "out"
    tables = {"sites": out / "t.sites.parquet", "quarantine": out / "t.quarantine.csv"}
    ingest(source, store=out / "unused.zarr", **tables, **options)
    assert not (out / "unused.zarr").exists()
    quarantine = pd.read_csv(tables["quarantine"], keep_default_na=False)
    return Plate.open(tables["sites"]), quarantine


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


@pytest.mark.parametrize("version", [0.4, 0.5])
@pytest.mark.parametrize(
    ("axes", "dtype"), [("cyx", "uint8"), ("tczyx", ">u2"), ("czyx", "uint16"), ("tcyx", "uint16")]
)
def test_plate_is_used_in_place(tmp_path, version, axes, dtype):
    image = random(dtype=dtype)
    shape = [dict(zip("cyx", image.shape, strict=True)).get(axis, 1) for axis in axes]
    images = {"B/7/0": image.reshape(shape), "B/7/1": image.reshape(shape)}
    store = draw(tmp_path / "x.zarr", images, version=version, axes=axes)
    before = contents(store)
    plate, quarantine = run(store, channels={"2": "Cytoplasm"})
    assert quarantine.empty
    assert (plate.name, plate.layout) == ("Z1", "omezarr")
    assert plate.channels == ("DNA", "Cytoplasm")
    assert plate.pixel_size_um == pytest.approx(0.3)
    assert list(plate.sites[schema.WELL]) == ["B07", "B07"]
    assert list(plate.sites[schema.SITE]) == [0, 1]
    assert plate.sites["store"].iloc[0] == str(store.resolve())
    pixels = plate.read(1, ["Cytoplasm", "DNA"])
    assert pixels.dtype == image.dtype.newbyteorder("=")
    np.testing.assert_array_equal(pixels, image[::-1])
    assert plate.sites["QC_Cytoplasm_mean"].iloc[0] == pytest.approx(image[1].mean())
    labels = np.eye(16, 20, dtype=np.uint32)
    plate.write_labels(1, labels)
    np.testing.assert_array_equal(plate.read_labels(1), labels)
    assert plate.label_root() == plate.path.with_name("t.sites.labels.zarr")
    assert contents(store) == before


def test_without_channel_axis_labels_and_unit(tmp_path):
    store = draw(tmp_path / "x.zarr", {"A/1/f1": random()[0]}, axes="yx", unit=None, labels=())
    plate, _ = run(store)
    assert plate.channels == ("channel 1",)
    assert plate.pixel_size_um is None
    assert list(plate.sites[schema.SITE]) == [1]
    assert plate.read(0).shape == (1, 16, 20)


def test_nanometres(tmp_path):
    plate = read_plate(draw(tmp_path / "x.zarr", {"A/1/0": random()}, unit="nanometer"))
    assert plate.pixel_size_um == pytest.approx(0.3e-3)


def test_bad_fields_go_to_quarantine(tmp_path):
    images = {f"A/1/{n}": random(n) for n in range(4)}
    images["A/1/4"] = random(4, shape=(2, 8, 8))
    images["A/1/5"] = random(5, dtype="float32")
    images["A/1/6"] = random(6)
    images["A/1/6"][1] = 0
    images["A/1/7"] = random(7)
    images["Z9/1/0"] = random(8)
    store = draw(tmp_path / "x.zarr", images)
    shutil.rmtree(store / "A" / "1" / "2")
    chunk = next(path for path in (store / "A/1/3/0/c").rglob("*") if path.is_file())
    chunk.write_bytes(b"damaged")
    group = zarr.open_group(store / "A/1/7")
    group.attrs["ome"] = {**group.attrs["ome"], "omero": {"channels": [{"label": "GFP"}]}}
    plate, quarantine = run(store)
    assert list(plate.sites["image"]) == ["A/1/0", "A/1/1"]
    reasons = quarantine.groupby(schema.SITE)["reason"].first()
    assert "'Z91' is not a well" in reasons[0]
    assert "not a readable OME-Zarr image" in reasons[2]
    assert "unreadable" in reasons[3]
    assert "has shape (8, 8), most of the plate has (16, 20)" in reasons[4]
    assert "type float32" in reasons[5]
    assert "all pixels are 0" in reasons[6]
    assert quarantine["channel"][quarantine[schema.SITE] == 6].tolist() == ["ER"]
    assert "has channels ['GFP', 'channel 2'], most of the plate has" in reasons[7]


def test_stack_is_refused(tmp_path):
    store = draw(tmp_path / "x.zarr", {"A/1/0": random(shape=(2, 3, 16, 20))}, axes="czyx")
    with pytest.raises(CellpipeDataError, match=r"at most one time and one plane.*'z': 3"):
        read_plate(store)


def test_one_image_is_no_plate(tmp_path):
    store = draw(tmp_path / "x.zarr", {"A/1/0": random()})
    with pytest.raises(CellpipeDataError, match="Give the folder of the plate"):
        read_plate(store / "A" / "1" / "0")


@pytest.mark.data
def test_real_plate_with_two_channels_of_one_name(tmp_path, caplog):
    store = shutil.copytree(real(MOBIE), tmp_path / MOBIE.name)
    plate, quarantine = run(store)
    assert plate.channels == (
        "Maximum-Projection_FITC_05",
        "Best-Focus-Projection_FITC_05",
        "Maximum-Projection_FITC_05_2",
    )
    assert "becomes 'Maximum-Projection_FITC_05_2'" in caplog.text
    assert plate.pixel_size_um == 2.7336
    assert list(plate.sites[schema.WELL]) == ["E07", "E08"]
    assert quarantine.empty
    expected = zarr.open_array(store / "E" / "08" / "0" / "0", mode="r")[:]
    np.testing.assert_array_equal(plate.read(1), expected)
    np.testing.assert_array_equal(plate.read(1, ["Best-Focus-Projection_FITC_05"])[0], expected[1])


@pytest.mark.data
def test_real_metadata_without_pixels(tmp_path):
    folder = real(DATA / "omezarr_plate_metadata_only")
    with pytest.raises(CellpipeDataError, match="holds no readable image"):
        read_plate(folder / "v05" / "76-45.ome.zarr")
    store = shutil.copytree(folder / "v04" / "2551.zarr", tmp_path / "2551.zarr")
    for attributes in list(store.rglob(".zattrs")):  # the set was stored without its .zgroup files
        attributes.with_name(".zgroup").write_text('{"zarr_format": 2}')
    with pytest.raises(CellpipeDataError, match=r"well A/2 holds acquisitions \[2651, 2652"):
        read_plate(store)
