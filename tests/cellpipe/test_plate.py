from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.ingest import ingest
from cellpipe.ngff_field import open_field
from cellpipe.plate import Plate

SHAPE = (300, 70)


@pytest.fixture
def plate(tmp_path):
    source = tmp_path / "P1"
    source.mkdir()
    for site in (1, 2):
        for number, channel in enumerate(("DNA", "ER", "AGP")):
            image = np.arange(SHAPE[0] * SHAPE[1], dtype=np.uint16).reshape(SHAPE)
            tifffile.imwrite(source / f"B7_{site}_{channel}.tif", image + 100 * site + number)
    out = tmp_path / "out"
    ingest(
        source,
        store=out / "P1.zarr",
        sites=out / "tables" / "P1.sites.parquet",
        quarantine=out / "P1.quarantine.csv",
        file_pattern=r"(?P<well>[A-H]\d+)_(?P<site>\d)_(?P<channel>\w+)\.tif",
        pixel_size_um=0.5,
    )
    return Plate.open(out / "tables" / "P1.sites.parquet")


def test_read_by_name_in_the_order_asked_for(plate):
    assert plate.channels == ("AGP", "DNA", "ER")
    everything = plate.read(1)
    assert everything.shape == (3, *SHAPE)
    np.testing.assert_array_equal(plate.read(1, ["ER", "AGP"]), everything[[2, 0]])
    assert plate.read(0, ["DNA"])[0, 0, 0] == 100


def test_read_unknown_channel(plate):
    with pytest.raises(CellpipeValueError, match="no channel Mito; it has AGP, DNA, ER"):
        plate.read(0, ["DNA", "Mito"])


def test_labels_round_trip(plate):
    labels = np.zeros(SHAPE, np.uint32)
    labels[10:20, 10:20] = 70_000
    plate.write_labels(1, labels)
    plate.write_labels(1, labels // 2, "cells")
    np.testing.assert_array_equal(plate.read_labels(1), labels)
    plate.write_labels(1, labels + 1)
    np.testing.assert_array_equal(plate.read_labels(1), labels + 1)
    np.testing.assert_array_equal(plate.read_labels(1, "cells"), labels // 2)
    group = plate.label_root() / "B" / "07" / "2" / "labels"
    assert zarr.open_group(group, mode="r").attrs["ome"]["labels"] == ["nuclei", "cells"]
    assert {path.name for path in group.iterdir()} == {"zarr.json", "nuclei", "cells"}
    assert open_field(group / "nuclei").pixel_size_um == 0.5
    coarse = zarr.open_array(group / "cells" / "1", mode="r")[:]
    np.testing.assert_array_equal(coarse, (labels // 2)[::2, ::2])


@pytest.mark.parametrize("labels", [np.zeros((5, 5), np.uint32), np.zeros(SHAPE, np.int64)])
def test_wrong_labels(plate, labels):
    with pytest.raises(CellpipeValueError, match=r"expected labels of shape \(300, 70\)"):
        plate.write_labels(0, labels)


def test_labels_that_are_not_there(plate):
    with pytest.raises(CellpipeDataError, match=r"P1, B/07/1 has no labels 'nuclei'.*segment"):
        plate.read_labels(0)


def test_open_what_is_no_site_table(tmp_path):
    with pytest.raises(CellpipeDataError, match="does not exist"):
        Plate.open(tmp_path / "none.parquet")
    path = tmp_path / "some.parquet"
    path.write_text("no table")
    with pytest.raises(CellpipeDataError, match="is not a site table"):
        Plate.open(path)


def test_pixels_that_are_gone(plate):
    for path in sorted(Path(plate.label_root()).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(CellpipeDataError, match="not a readable OME-Zarr image"):
        plate.read(0)
