"""The cell table and the label images of a plate."""

import logging

import numpy as np
import pandas as pd
import pytest

from cellpipe import schema
from cellpipe.errors import CellpipeValueError
from cellpipe.plate import Plate
from cellpipe.segment import segment


def matched(predicted, truth):
    """Objects that overlap by more than half of their union."""
    shape = (int(predicted.max()) + 1, int(truth.max()) + 1)
    pairs = np.ravel_multi_index((predicted.ravel().astype(int), truth.ravel().astype(int)), shape)
    overlap = np.bincount(pairs, minlength=np.prod(shape)).reshape(shape)
    union = overlap.sum(1, keepdims=True) + overlap.sum(0, keepdims=True) - overlap
    return int((overlap / np.maximum(union, 1) > 0.5)[1:, 1:].sum())


def test_nuclei_match_the_truth(drawn_plate):
    plate = Plate.open(drawn_plate.sites)
    truth = np.load(drawn_plate.truth / "nuclei" / "SIM0001.npz")
    hits = found = true = 0
    for row, site in plate.sites.iterrows():
        drawn = truth[f"{site[schema.WELL]}_{site[schema.SITE]}"]
        labels = plate.read_labels(row)
        hits += matched(labels, drawn)
        found += int(labels.max())
        true += int(drawn.max())
    assert true > 50
    assert 2 * hits / (found + true) >= 0.9


def test_cell_table(drawn_plate):
    cells = pd.read_parquet(drawn_plate.cells)
    plate = Plate.open(drawn_plate.sites)
    assert cells["cell_id"].is_unique
    first = cells.iloc[0]
    site = plate.sites.iloc[first["site_row"]]
    key = f"source_sim__b__SIM0001__{site[schema.WELL]}__{site[schema.SITE]}"
    assert first["cell_id"] == f"{key}__{first[schema.OBJECT]}"
    assert first[schema.PERT_NAME] == site[schema.PERT_NAME]
    counts = cells.groupby("site_row").size()
    assert (cells.groupby("site_row")[schema.CELL_COUNT].first() == counts).all()
    labels = plate.read_labels(int(first["site_row"]))
    y, x = np.nonzero(labels == first[schema.OBJECT])
    assert (first["centroid_y"], first["centroid_x"]) == pytest.approx((y.mean(), x.mean()))
    touches = y.min() == 0 or x.min() == 0 or y.max() == 159 or x.max() == 159
    assert first["edge"] == touches
    assert 0 < cells["edge"].mean() < 1


def test_a_plate_without_cells_gives_an_empty_table(drawn_plate, tmp_path, caplog):
    """Nuclei of 400 px do not exist, so everything found is too small."""
    with caplog.at_level(logging.WARNING):
        segment(
            drawn_plate.sites,
            illumination=drawn_plate.illumination,
            output=tmp_path / "cells.parquet",
            nucleus_diameter=400,
            diameter_unit="px",
        )
    cells = pd.read_parquet(tmp_path / "cells.parquet")
    assert len(cells) == 0
    assert list(cells.columns) == list(pd.read_parquet(drawn_plate.cells).columns)
    assert "no nuclei in any of 24 sites" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channel": "Hoechst"}, r"segment.channel is 'Hoechst', but plate SIM0001 has \['Mito'"),
        ({"diameter_unit": "nm"}, "expected 'um' or 'px', got 'nm'"),
    ],
)
def test_wrong_options_are_named(drawn_plate, tmp_path, options, message):
    with pytest.raises(CellpipeValueError, match=message):
        segment(
            drawn_plate.sites,
            illumination=drawn_plate.illumination,
            output=tmp_path / "cells.parquet",
            nucleus_diameter=15,
            **options,
        )
