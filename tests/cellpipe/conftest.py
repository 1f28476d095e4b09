"""Embeddings of made-up plates with everything that profile, evaluate and the figures read."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from cellpipe import schema
from cellpipe.embedding_file import write_embeddings

CHANNELS = ("DNA", "ER")
PLATE_SIDES = (16, 24)


@dataclass(frozen=True)
class Experiment:
    """Paths of made-up plates; `classes` are the perturbations, DMSO first."""

    folder: Path
    embeddings: list[Path]
    model: Path
    split: Path
    classes: list[str]


def well_names(count: int) -> list[str]:
    rows, columns = PLATE_SIDES if count > 96 else (8, 12)
    # Column-major, so that few wells already use several rows and columns.
    return [schema.well_name(i % rows, i // rows % columns) for i in range(count)]


def make_experiment(
    folder: Path,
    *,
    plates: int = 2,
    compounds: int = 3,
    replicates: int = 4,
    controls: int = 12,
    cells: int = 10,
    dimension: int = 8,
    effect: float = 0.0,
    active: int | None = None,
    well_noise: float = 0.5,
    with_platemap: bool = True,
    seed: int = 0,
) -> Experiment:
    """Write embeddings, a split by well and a model whose head knows the class centres.

    Compound i shifts its wells by `effect` along axis i; `active` limits how many do. Cells scatter
    with standard deviation 1 about their well, wells with `well_noise` about their class, and every
    plate has an offset of its own.
    """
    rng = np.random.default_rng(seed)
    classes = ["DMSO", *[f"compound-{i:02d}" for i in range(compounds)]]
    centres = np.zeros((len(classes), dimension))
    for i in range(compounds if active is None else active):
        centres[1 + i, i % dimension] = effect
    folder.mkdir(parents=True, exist_ok=True)
    model, digest = _write_model(folder / "model", classes, centres)
    layout = [0] * controls + [i for i in range(1, len(classes)) for _ in range(replicates)]
    embeddings = []
    tables = []
    for number in range(plates):
        name = f"P{number + 1}"
        wells = well_names(len(layout))
        offset = rng.normal(size=dimension)
        obs = []
        values = []
        for position in rng.permutation(len(layout)):
            kind = layout[position]
            centre = offset + centres[kind] + rng.normal(size=dimension) * well_noise
            values.append(centre + rng.normal(size=(cells, dimension)))
            obs.append(_cells_of_well(name, wells[position], classes[kind], kind, cells, rng))
        table = pd.concat(obs, ignore_index=True)
        if not with_platemap:
            table = table.drop(columns=[schema.PERT_NAME, schema.PERT_TYPE])
        tables.append(table)
        path = folder / f"{name}.h5ad"
        with write_embeddings(
            path,
            table.set_index("cell_id"),
            dimension=dimension,
            channels=CHANNELS,
            provenance={"weights_sha256": digest, "channels": list(CHANNELS)},
        ) as file:
            block = np.concatenate(values).astype(np.float32)
            file.append(block, np.repeat(block[:, None], len(CHANNELS), axis=1))
        embeddings.append(path)
    split = folder / "split.csv"
    if with_platemap:
        _write_split(split, pd.concat(tables, ignore_index=True), classes)
    return Experiment(folder, embeddings, model, split, classes)


def _cells_of_well(
    plate: str, well: str, name: str, kind: int, cells: int, rng: np.random.Generator
) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            schema.SOURCE: "source_1",
            schema.BATCH: "batch_1",
            schema.PLATE: plate,
            schema.WELL: well,
            schema.SITE: np.arange(cells, dtype=np.int32) % 2 + 1,
            schema.OBJECT: np.arange(1, cells + 1, dtype=np.int32),
            schema.PERT_NAME: name,
            schema.PERT_TYPE: schema.NEGCON if kind == 0 else "trt",
            "Metadata_dose": float(kind),
        }
    )
    for channel in CHANNELS:
        by_site = rng.normal(1000 + 50 * kind, 20, size=2)
        table[f"QC_{channel}_mean"] = by_site[table[schema.SITE] - 1]
    table[schema.CELL_COUNT] = np.int32(cells // 2 + rng.integers(0, 3))
    key = table[list(schema.SITE_KEY)].astype(str).agg("__".join, axis=1)
    table.insert(0, "cell_id", key + "__" + table[schema.OBJECT].astype(str))
    return table


def _write_model(folder: Path, classes: list[str], centres: np.ndarray) -> tuple[Path, str]:
    """A head whose logits order classes by the distance of their centres."""
    folder.mkdir()
    weights = folder / "model.safetensors"
    tensors = {"head.weight": centres, "head.bias": -0.5 * (centres**2).sum(axis=1)}
    save_file({name: value.astype(np.float32) for name, value in tensors.items()}, weights)
    (folder / "config.json").write_text("{}")
    (folder / "cellpipe.json").write_text(json.dumps({"labels": classes}))
    return folder, hashlib.sha256(weights.read_bytes()).hexdigest()


def _write_split(path: Path, table: pd.DataFrame, classes: list[str]) -> None:
    """Deal the wells of a class in turn: train, test, train, val."""
    wells = table[[schema.PLATE, schema.WELL, schema.PERT_NAME]].drop_duplicates()
    turn = wells.groupby([schema.PLATE, schema.PERT_NAME]).cumcount() % 4
    wells = wells.assign(split=turn.map({0: "train", 1: "test", 2: "train", 3: "val"}))
    rows = table.merge(wells).rename(columns={schema.PERT_NAME: "label"})
    header = {"version": 1, "split": "well", "seed": 0, "label": "x", "labels": classes}
    with path.open("w") as file:
        file.write(f"# {json.dumps(header)}\n")
        columns = ["cell_id", schema.PLATE, schema.WELL, "label", "split"]
        rows[columns].to_csv(file, index=False)


@pytest.fixture(scope="session")
def experiment_factory() -> Callable[..., Experiment]:
    return make_experiment


@dataclass(frozen=True)
class DrawnPlate:
    """A simulated plate and the file that each stage makes of it, up to the crops."""

    truth: Path
    sites: Path
    illumination: Path
    cells: Path
    crops: Path


@pytest.fixture(scope="session")
def drawn_plate(tmp_path_factory: pytest.TempPathFactory) -> DrawnPlate:
    """One plate of 24 small fields, drawn and taken through the stages."""
    from cellpipe.crops import crops
    from cellpipe.illumination import illumination
    from cellpipe.ingest import ingest
    from cellpipe.segment import segment
    from cellpipe.simulate import simulate

    folder = tmp_path_factory.mktemp("drawn")
    simulate(folder / "drawn", plates=1, field_size=160, sites_per_well=2, replicates=1)
    metadata = folder / "drawn" / "workspace" / "metadata"
    plate = DrawnPlate(
        truth=folder / "drawn" / "truth",
        sites=folder / "SIM0001.sites.parquet",
        illumination=folder / "SIM0001.illumination.npz",
        cells=folder / "SIM0001.cells.parquet",
        crops=folder / "SIM0001.crops.zarr",
    )
    (images,) = (folder / "drawn" / "images").glob("*/images/SIM0001*/Images")
    ingest(
        images,
        plate="SIM0001",
        store=folder / "SIM0001.zarr",
        sites=plate.sites,
        quarantine=folder / "SIM0001.quarantine.csv",
        platemap=next(metadata.glob("platemaps/*/platemap/*.tsv")),
        metadata=next(metadata.glob("external_metadata/*.tsv")),
        source_name="source_sim",
        batch="b",
    )
    illumination(plate.sites, output=plate.illumination, camera_offset=100)
    segment(plate.sites, illumination=plate.illumination, output=plate.cells, nucleus_diameter=15)
    crops(
        plate.cells,
        sites=plate.sites,
        illumination=plate.illumination,
        output=plate.crops,
        size_px=48,
    )
    return plate
