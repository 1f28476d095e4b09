"""Crops: where they lie, what they hold, and what a torn store says."""

import numpy as np
import pandas as pd
import pytest

from cellpipe.corrected import CorrectedPlate
from cellpipe.crop_store import CropStore, CropWriter
from cellpipe.crops import crops
from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.files import read_table_metadata, write_table


def test_crops_are_the_corrected_pixels_around_the_nuclei(drawn_plate):
    store = CropStore.open(drawn_plate.crops)
    corrected = CorrectedPlate.open(drawn_plate.sites, drawn_plate.illumination)
    inside = store.cells[store.cells["outside"] == 0]
    for row in inside.index[[0, len(inside) // 2, -1]]:
        cell = store.cells.loc[row]
        top, left = round(cell["centroid_y"]) - 24, round(cell["centroid_x"]) - 24
        image = corrected.read(int(cell["site_row"]))[:, top : top + 48, left : left + 48]
        np.testing.assert_array_equal(store.read(np.array([row]))[0], np.rint(image))


def test_cells_at_the_border_are_left_out_and_near_it_mirrored(drawn_plate):
    store = CropStore.open(drawn_plate.crops)
    cells = pd.read_parquet(drawn_plate.cells)
    assert len(store.cells) == int((~cells["edge"]).sum())
    row = int(np.flatnonzero(store.cells["centroid_y"] < 20)[0])
    assert store.cells["outside"].iloc[row] > 0
    crop = store.read(np.array([row]))[0]
    border = 24 - round(store.cells["centroid_y"].iloc[row])
    mirrored = crop[:, border : 2 * border][:, ::-1]
    np.testing.assert_array_equal(crop[:, :border], mirrored)


def test_channels_by_name_and_rows_in_any_order(drawn_plate):
    store = CropStore.open(drawn_plate.crops)
    rows = np.array([5, 2, 9])
    picked = store.read(rows, store.channel_indices(["DNA", "Mito"]))
    for place, row in enumerate(rows):
        whole = store.read(np.array([row]))[0]
        np.testing.assert_array_equal(picked[place, 0], whole[store.channels.index("DNA")])
        np.testing.assert_array_equal(picked[place, 1], whole[store.channels.index("Mito")])
    with pytest.raises(CellpipeValueError, match=r"no channels \['GFP'\]"):
        store.channel_indices(["GFP"])


def test_writer_fills_shards_in_order(tmp_path):
    writer = CropWriter(
        tmp_path / "s.zarr", count=2500, channels=("a",), size_px=8, pixel_size_um=None
    )
    values = np.arange(2500, dtype=np.uint16)
    for block in np.array_split(values, 13):
        writer.append(np.broadcast_to(block[:, None, None, None], (len(block), 1, 8, 8)))
    writer.close()
    np.testing.assert_array_equal(writer.array[:, 0, 3, 3], values)
    assert len(list((tmp_path / "s.zarr" / "crops").rglob("c/*/*/*/*"))) == 3


def test_a_plate_without_cells_gives_an_empty_store(drawn_plate, tmp_path):
    cells = pd.read_parquet(drawn_plate.cells)
    footer = read_table_metadata(drawn_plate.cells)["cellpipe"]
    write_table(cells.iloc[:0], tmp_path / "none.parquet", metadata={"cellpipe": footer})
    crops(
        tmp_path / "none.parquet",
        sites=drawn_plate.sites,
        illumination=drawn_plate.illumination,
        output=tmp_path / "none.zarr",
        size_px=48,
    )
    store = CropStore.open(tmp_path / "none.zarr")
    assert store.array.shape == (0, 8, 48, 48)


def test_a_full_disk_leaves_nothing(drawn_plate, tmp_path, monkeypatch):
    def full(self, batch):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CropWriter, "append", full)
    with pytest.raises(OSError, match="No space left"):
        crops(
            drawn_plate.cells,
            sites=drawn_plate.sites,
            illumination=drawn_plate.illumination,
            output=tmp_path / "SIM0001.crops.zarr",
            size_px=48,
        )
    assert list(tmp_path.iterdir()) == []


def test_torn_and_foreign_stores_are_refused(tmp_path, drawn_plate):
    with pytest.raises(CellpipeDataError, match="not a crop store"):
        CropStore.open(tmp_path / "nothing.zarr")
    CropWriter(
        tmp_path / "torn.zarr", count=3, channels=("a",), size_px=8, pixel_size_um=None
    ).close()
    write_table(pd.DataFrame({"cell_id": ["x"]}), tmp_path / "torn.zarr" / "cells.parquet")
    with pytest.raises(CellpipeDataError, match="expected one crop a row"):
        CropStore.open(tmp_path / "torn.zarr")
