from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import tifffile

from cellpipe import schema
from cellpipe.errors import CellpipeValueError
from cellpipe.simulate import dataset, simulate
from cellpipe.simulate.cells import populate
from cellpipe.simulate.compounds import COMPOUNDS, DMSO, Compound, layout
from cellpipe.simulate.harmony import CAMERA_PITCH_UM, FILTERS
from cellpipe.simulate.microscope import CAMERA_OFFSET, CHANNELS, draw_plate, expose
from cellpipe.simulate.render import STAINS, Scene, render
from cellpipe.simulate.textures import textures

SIZE = 96
TINY = {"field_size": SIZE, "sites_per_well": 1, "replicates": 1}
REAL_MAPS = Path(__file__).parents[2] / "../shared/data/jump_target_platemaps"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("simulated") / "data"
    simulate(path, plates=2, seed=3, **TINY)
    return path


def images_folder(root: Path, plate: str) -> Path:
    (folder,) = root.glob(f"images/*/images/{plate}__*-Measurement1/Images")
    return folder


def index_entries(root: Path, plate: str) -> list[dict[str, str]]:
    tree = ElementTree.parse(images_folder(root, plate) / "Index.idx.xml")
    name = "{http://www.perkinelmer.com/PEHH/HarmonyV5}"
    return [
        {child.tag.removeprefix(name): child.text or "" for child in image}
        for image in tree.findall(f"{name}Images/{name}Image")
    ]


def load_data(root: Path, plate: str) -> pd.DataFrame:
    (path,) = root.glob(f"workspace/load_data_csv/*/{plate}/load_data.csv")
    return pd.read_csv(path)


def photograph(compound: Compound, seed: int = 1) -> tuple[Scene, np.ndarray]:
    cells = populate(160, compound, 1.0, np.random.default_rng(seed))
    scene = render(cells, 160, textures(0))
    plate = draw_plate("P", 160, np.random.default_rng(2))
    noise = [np.random.default_rng([seed, index]) for index in range(len(CHANNELS))]
    return scene, expose(scene, plate, np.ones(len(STAINS)), noise)


@pytest.mark.parametrize("plate", ["SIM0001", "SIM0002"])
def test_index_lists_the_files_that_exist(root: Path, plate: str) -> None:
    folder = images_folder(root, plate)
    entries = index_entries(root, plate)
    assert len(entries) == 12 * len(CHANNELS)
    assert {entry["URL"] for entry in entries} == {path.name for path in folder.glob("*.tiff")}
    assert {entry["ImageSizeX"] for entry in entries} == {str(SIZE)}
    assert {float(entry["ImageResolutionX"]) for entry in entries} == {8.969641214351426e-07}


def test_tiffs_are_like_those_of_a_phenix(root: Path) -> None:
    path = images_folder(root, "SIM0001") / "r01c01f01p01-ch5sk1fk1fl1.tiff"
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages) == 1
        page = tiff.pages[0]
        assert page.compression == tifffile.COMPRESSION.LZW
        assert page.shape == (SIZE, SIZE)
        assert page.dtype == np.uint16
        pixels, centimetres = page.tags["XResolution"].value
        assert 1e4 * centimetres / pixels == pytest.approx(CAMERA_PITCH_UM)


@pytest.mark.parametrize("plate", ["SIM0001", "SIM0002"])
def test_load_data_agrees_with_the_index(root: Path, plate: str) -> None:
    by_name = {entry["URL"]: entry for entry in index_entries(root, plate)}
    table = load_data(root, plate)
    assert set(table[schema.PLATE]) == {plate}
    for row in table.to_dict("records"):
        for channel in CHANNELS:
            entry = by_name.pop(row[f"FileName_Orig{channel}"])
            well = schema.well_name(int(entry["Row"]) - 1, int(entry["Col"]) - 1)
            assert (well, int(entry["FieldID"])) == (row[schema.WELL], row[schema.SITE])
            assert entry["ChannelName"] == FILTERS[channel].name
            path = Path(row[f"PathName_Orig{channel}"], row[f"FileName_Orig{channel}"])
            assert path.exists()
    assert not by_name


def test_platemap_names_the_treatments_of_the_truth(root: Path) -> None:
    (maps,) = root.glob("workspace/metadata/platemaps/*")
    barcodes = pd.read_csv(maps / "barcode_platemap.csv")
    (name,) = barcodes.Plate_Map_Name.unique()
    assert list(barcodes.Assay_Plate_Barcode) == ["SIM0001", "SIM0002"]
    wells = pd.read_csv(maps / "platemap" / f"{name}.tsv", sep="\t")
    compounds = pd.read_csv(
        root / "workspace/metadata/external_metadata/SIM-Target-1_compound_metadata.tsv", sep="\t"
    )
    named = wells.merge(compounds, on="broad_sample").set_index("well_position").pert_iname
    cells = pd.read_parquet(root / "truth" / "cells.parquet")
    assert (cells[schema.PERT_NAME] == cells[schema.WELL].map(named)).all()


@pytest.mark.data
def test_metadata_follows_jump_target(root: Path) -> None:
    if not REAL_MAPS.exists():
        pytest.skip("the real JUMP-Target plate maps are not in ../shared/data")
    real = pd.read_csv(
        REAL_MAPS / "JUMP-Target_at_3252e03/JUMP-Target-1_compound_metadata.tsv",
        sep="\t",
        keep_default_na=False,
    )
    path = root / "workspace/metadata/external_metadata/SIM-Target-1_compound_metadata.tsv"
    ours = pd.read_csv(path, sep="\t", keep_default_na=False, dtype=str)
    assert list(ours.columns) == [*real.columns, "JCP2022"]
    (dmso,) = ours[ours.broad_sample == ""][real.columns].astype(str).to_dict("records")
    (real_dmso,) = real[real.broad_sample == ""].astype(str).to_dict("records")
    assert dmso == real_dmso


def test_layout_is_complete_and_scattered() -> None:
    wells = layout(4, seed=0)
    names = pd.Series([compound.name for compound in wells.values()])
    counts = names.value_counts()
    assert counts.pop("DMSO") == 16
    assert set(counts) == {4}
    assert set(counts.index) == {compound.name for compound in COMPOUNDS}
    places = pd.DataFrame(list(wells), columns=["row", "column"])
    assert places.groupby(names).column.nunique().min() > 1
    assert places.groupby(names).mean().std().max() < 0.75


def test_same_seed_same_bytes_whatever_the_jobs_and_plates(root: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "again", plates=1, seed=3, jobs=2, **TINY)
    names = [path.name for path in images_folder(root, "SIM0001").glob("*.tiff")]
    assert len(names) == 12 * len(CHANNELS)
    for name in names:
        first, again = (
            (images_folder(path, "SIM0001") / name).read_bytes()
            for path in (root, tmp_path / "again")
        )
        assert first == again, name
    cells = pd.read_parquet(root / "truth" / "cells.parquet")
    cells_again = pd.read_parquet(tmp_path / "again" / "truth" / "cells.parquet")
    pd.testing.assert_frame_equal(cells[cells[schema.PLATE] == "SIM0001"], cells_again)


def test_another_seed_and_another_plate_draw_other_images(root: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "other", plates=1, seed=4, **TINY)
    name = "r01c01f01p01-ch5sk1fk1fl1.tiff"
    folders = [
        images_folder(root, "SIM0001"),
        images_folder(root, "SIM0002"),
        images_folder(tmp_path / "other", "SIM0001"),
    ]
    assert len({(folder / name).read_bytes() for folder in folders}) == 3


def test_label_images_hold_the_cells_of_the_table(root: Path) -> None:
    cells = pd.read_parquet(root / "truth" / "cells.parquet")
    for plate, of_plate in cells.groupby(schema.PLATE):
        with np.load(root / "truth" / "nuclei" / f"{plate}.npz") as file:
            labels = dict(file)
        assert len(labels) == 12
        for (well, site), rows in of_plate.groupby([schema.WELL, schema.SITE]):
            label = labels[f"{well}_{site}"]
            assert list(rows[schema.OBJECT]) == list(range(1, label.max() + 1))
            assert list(rows.area_px) == list(np.bincount(label.ravel())[1:])
            y, x = np.rint(rows[["centroid_y", "centroid_x"]].to_numpy()).astype(int).T
            assert list(label[y, x]) == list(rows[schema.OBJECT])
            whole = rows[~rows.edge]
            disc = np.pi / 4 * whole.nucleus_major_px * whole.nucleus_minor_px
            np.testing.assert_allclose(whole.area_px, disc, rtol=0.15)


def test_nuclei_are_where_dna_is_bright(root: Path) -> None:
    inside, outside = [], []
    with np.load(root / "truth" / "nuclei" / "SIM0002.npz") as labels:
        for row in load_data(root, "SIM0002").to_dict("records"):
            dna = tifffile.imread(Path(row["PathName_OrigDNA"], row["FileName_OrigDNA"]))
            label = labels[f"{row[schema.WELL]}_{row[schema.SITE]}"]
            inside.append(dna[label > 0])
            outside.append(dna[label == 0])
    assert np.median(np.concatenate(inside)) > 5 * np.median(np.concatenate(outside))


@pytest.mark.parametrize("compound", COMPOUNDS, ids=lambda compound: compound.name)
def test_compound_changes_its_channels_and_no_other(compound: Compound) -> None:
    scene, treated = photograph(compound)
    control_scene, control = photograph(DMSO)
    changed = [
        channel for channel, a, b in zip(CHANNELS, treated, control, strict=True) if (a != b).any()
    ]
    assert changed == [channel for channel in CHANNELS if channel in compound.channels]
    if len(compound.channels) == 1:
        np.testing.assert_array_equal(scene.labels, control_scene.labels)


def test_effects_are_graded_and_some_cells_do_not_respond() -> None:
    rng = np.random.default_rng(0)
    for compound in COMPOUNDS:
        effects = compound.effects(2000, rng)
        if compound.strength == 0:
            assert not effects.any()
        else:
            assert 0.8 < np.count_nonzero(effects) / 2000 < 0.9
            assert abs(effects[effects > 0].mean() - compound.strength) < 0.05


def test_cytotoxic_compound_leaves_fewer_smaller_nuclei() -> None:
    (toxic,) = (compound for compound in COMPOUNDS if compound.phenotype == "cytotoxic")
    counts, areas = {}, {}
    for compound in (DMSO, toxic):
        labels = [photograph(compound, seed)[0].labels for seed in range(6)]
        sizes = [np.unique(label[label > 0], return_counts=True)[1] for label in labels]
        counts[compound.name] = np.mean([len(size) for size in sizes])
        areas[compound.name] = np.median(np.concatenate(sizes))
    assert counts[toxic.name] < 0.7 * counts["DMSO"]
    assert areas[toxic.name] < 0.9 * areas["DMSO"]


def test_flat_field_truth_has_mean_one_and_a_plausible_fall_off(root: Path) -> None:
    fields = {}
    for plate in ("SIM0001", "SIM0002"):
        with np.load(root / "truth" / "illumination" / f"{plate}.npz") as file:
            assert file["camera_offset"] == CAMERA_OFFSET
            fields[plate] = {channel: file[channel] for channel in CHANNELS}
        for flat in fields[plate].values():
            assert flat.dtype == np.float32
            assert abs(flat.mean() - 1) < 1e-5
            assert 0.69 < flat.min() / flat.max() < 0.81
    assert (fields["SIM0001"]["DNA"] != fields["SIM0002"]["DNA"]).any()


def test_image_is_offset_plus_flat_field_times_light() -> None:
    empty = Scene(np.zeros((5, SIZE, SIZE)), np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE)))
    plate = draw_plate("P", SIZE, np.random.default_rng(0))
    noise = [np.random.default_rng(index) for index in range(len(CHANNELS))]
    images = expose(empty, plate, np.ones(len(STAINS)), noise)
    light = (images - CAMERA_OFFSET) / plate.flatfield
    blocks = light.reshape(len(CHANNELS), 6, 16, 6, 16).mean(axis=(2, 4))
    # 256 pixels a block: shot noise of the dimmest background is then below half a percent.
    spread = blocks.std(axis=(1, 2)) / blocks.mean(axis=(1, 2))
    assert spread.max() < 0.01


def test_brightfield_turns_its_sign_through_focus() -> None:
    _, images = photograph(DMSO)
    plate = draw_plate("P", 160, np.random.default_rng(2))
    high, low = images[5:7] / plate.flatfield[5:7]
    assert np.corrcoef(high.ravel(), low.ravel())[0, 1] < 0.2


def test_failed_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(dataset, "write_truth", fail)
    with pytest.raises(OSError, match="disk full"):
        simulate(tmp_path / "out", plates=1, **TINY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("plates", 0), ("seed", -1), ("field_size", 64), ("sites_per_well", 10), ("replicates", 0)],
)
def test_argument_out_of_range(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(CellpipeValueError, match=rf"expected {name} from \d+ to \d+, got {value}"):
        simulate(tmp_path / "out", **{name: value})
