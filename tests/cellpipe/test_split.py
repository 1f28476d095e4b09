"""What is held out by each split, and what a split says of itself."""

import json

import numpy as np
import pandas as pd
import pytest

from cellpipe import schema
from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.files import write_table
from cellpipe.split import Split, split

COMPOUNDS = ("DMSO", "DMSO", "alpha", "beta")


def write_cells(folder, plate, wells_per_class=5, cells_per_well=10):
    rows = []
    for number, name in enumerate(np.repeat(COMPOUNDS, wells_per_class)):
        well = schema.well_name(number // 12, number % 12)
        for cell in range(cells_per_well):
            rows.append(
                {
                    "cell_id": f"s__b__{plate}__{well}__1__{cell + 1}",
                    schema.PLATE: plate,
                    schema.WELL: well,
                    schema.PERT_NAME: name,
                    schema.PERT_TYPE: "negcon" if name == "DMSO" else "trt",
                    "edge": cell == 0,
                }
            )
    path = folder / f"{plate}.cells.parquet"
    write_table(pd.DataFrame(rows), path)
    return path


@pytest.fixture
def plates(tmp_path):
    return [write_cells(tmp_path, name) for name in ("P1", "P2")]


def test_well_split_keeps_wells_whole_and_covers_every_class(plates, tmp_path):
    split(plates, output=tmp_path / "split.csv")
    read = Split.read(tmp_path / "split.csv")
    used = read.cells[read.cells["split"] != "unused"]
    assert (used.groupby([schema.PLATE, schema.WELL])["split"].nunique() == 1).all()
    for part in ("train", "val", "test"):
        assert set(used.loc[used["split"] == part, "label"]) == set(COMPOUNDS)
    assert read.labels == ("DMSO", "alpha", "beta")
    assert read.name == "well"


def test_paper_split_is_60_20_20_over_cells_and_mixes_wells(plates, tmp_path):
    split(plates, output=tmp_path / "split.csv", name="paper")
    used = Split.read(tmp_path / "split.csv").cells.query("split != 'unused'")
    shares = used["split"].value_counts(normalize=True)
    assert shares["train"] == pytest.approx(0.6, abs=0.01)
    assert shares["test"] == pytest.approx(0.2, abs=0.01)
    assert (used.groupby([schema.PLATE, schema.WELL])["split"].nunique() > 1).any()


def test_plate_split_keeps_plates_whole(plates, tmp_path):
    split(plates, output=tmp_path / "split.csv", name="plate")
    used = Split.read(tmp_path / "split.csv").cells.query("split != 'unused'")
    assert (used.groupby(schema.PLATE)["split"].nunique() == 1).all()
    assert set(used["split"]) == {"train", "test"}


def test_cells_at_the_border_are_unused(plates, tmp_path):
    split(plates, output=tmp_path / "split.csv")
    cells = Split.read(tmp_path / "split.csv").cells
    at_border = cells["cell_id"].str.endswith("__1")
    assert (cells.loc[at_border, "split"] == "unused").all()
    assert (cells.loc[~at_border, "split"] != "unused").all()


def test_seed_repeats_and_another_seed_differs(plates, tmp_path):
    texts = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        split(plates, output=tmp_path / name, seed=seed)
        texts.append((tmp_path / name).read_text().split("\n", 1)[1])
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_classes_restrict(plates, tmp_path):
    split(plates, output=tmp_path / "split.csv", classes=["DMSO", "beta"])
    read = Split.read(tmp_path / "split.csv")
    assert read.labels == ("DMSO", "beta")
    assert set(read.cells.loc[read.cells["label"] == "alpha", "split"]) == {"unused"}


@pytest.mark.parametrize(("wells", "parts"), [(1, {"train"}), (2, {"train", "test"})])
def test_few_wells(tmp_path, wells, parts):
    path = write_cells(tmp_path, "P1", wells_per_class=wells)
    split([path], output=tmp_path / "split.csv")
    used = Split.read(tmp_path / "split.csv").cells.query("split != 'unused' and label == 'alpha'")
    assert set(used["split"]) == parts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "wells"}, r"split.name: expected one of .*'wells'"),
        ({"label": "Metadata_compound"}, r"no column 'Metadata_compound'.*Metadata_pert_name"),
        ({"classes": ["gamma"]}, r"split.classes: \['gamma'\] do not occur"),
    ],
)
def test_wrong_options_are_named(plates, tmp_path, options, message):
    with pytest.raises(CellpipeValueError, match=message):
        split(plates, output=tmp_path / "split.csv", **options)
    assert not (tmp_path / "split.csv").exists()


def test_one_plate_cannot_be_split_by_plate(plates, tmp_path):
    with pytest.raises(CellpipeValueError, match="needs at least two"):
        split(plates[:1], output=tmp_path / "split.csv", name="plate")


def test_other_versions_are_refused(tmp_path):
    path = tmp_path / "split.csv"
    for first in ("cell_id,split", "# " + json.dumps({"version": 99})):
        path.write_text(first + "\n")
        with pytest.raises(CellpipeDataError, match="expected a first line"):
            Split.read(path)


def test_plates_without_labels_and_empty_wells_are_unused(plates, tmp_path):
    bare = pd.read_parquet(plates[1]).drop(columns=[schema.PERT_NAME, schema.PERT_TYPE])
    write_table(bare, tmp_path / "bare.parquet")
    filled = pd.read_parquet(plates[0])
    filled.loc[filled[schema.PERT_NAME] == "beta", schema.PERT_TYPE] = "empty"
    write_table(filled, tmp_path / "filled.parquet")
    split([tmp_path / "filled.parquet", tmp_path / "bare.parquet"], output=tmp_path / "split.csv")
    read = Split.read(tmp_path / "split.csv")
    assert read.labels == ("DMSO", "alpha")
    assert set(read.cells.loc[read.cells[schema.PLATE] == "P2", "split"]) == {"unused"}
