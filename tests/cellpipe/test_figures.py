"""Figures are read back as SVG, where matplotlib notes every text, or as pixels."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from cellpipe import figures, schema
from cellpipe.crop_store import CELLS_FILE, CropWriter
from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.evaluate import evaluate
from cellpipe.figures import style
from cellpipe.figures.montage import channel_colours, composite
from cellpipe.figures.throughput import Counts, summarise
from cellpipe.files import write_table
from cellpipe.profile import profile


def scored(experiment: Any) -> Any:
    folder = experiment.folder
    profile(experiment.embeddings, wells=folder / "wells.h5ad", perturbations=folder / "means.h5ad")
    evaluate(
        experiment.embeddings,
        wells=folder / "wells.h5ad",
        split=experiment.split,
        model=experiment.model,
        output=folder / "metrics.json",
        predictions=folder / "predictions.parquet",
        replicability=folder / "replicability.csv",
        dose_column="Metadata_dose",
    )
    return experiment


@pytest.fixture(scope="module")
def small(experiment_factory: Callable[..., Any], tmp_path_factory: Any) -> Any:
    return scored(experiment_factory(tmp_path_factory.mktemp("small"), effect=4.0, cells=4))


@pytest.fixture(scope="module")
def large(experiment_factory: Callable[..., Any], tmp_path_factory: Any) -> Any:
    """161 classes on one plate of 384 wells, as on JUMP-Target-1."""
    return scored(
        experiment_factory(
            tmp_path_factory.mktemp("large"),
            plates=1,
            compounds=160,
            replicates=2,
            controls=64,
            cells=2,
            effect=4.0,
        )
    )


def texts(svg: Path) -> list[str]:
    return [
        line.strip()[5:-4]
        for line in svg.read_text().splitlines()
        if line.strip().startswith("<!-- ")
    ]


def test_looks_are_distinct() -> None:
    looks = style.looks([f"name {i}" for i in range(style.MOST_NAMED)])
    assert len(set(looks.values())) == style.MOST_NAMED
    assert not {style.CONTROL, style.OTHER} & {look.colour for look in looks.values()}


def test_other_formats_are_refused(small: Any, tmp_path: Path) -> None:
    with pytest.raises(CellpipeValueError, match=r"expected a \.png or \.svg, got '\.jpg'"):
        figures.draw_accuracy(small.folder / "metrics.json", output=tmp_path / "x.jpg")


def test_an_older_figure_survives_a_failure(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    target = tmp_path / "plate.png"
    target.write_bytes(b"old")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(OSError, match="No space left"):
        figures.draw_plate_map(small.folder / "wells.h5ad", plate="P1", output=target)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["plate.png"]


def test_a_plate_without_cells_says_so(small: Any, tmp_path: Path) -> None:
    figures.draw_plate_map(small.folder / "wells.h5ad", plate="P7", output=tmp_path / "p.svg")
    assert "Plate P7: no cells" in (tmp_path / "p.svg").read_text()


def test_png_is_drawn(small: Any, tmp_path: Path) -> None:
    figures.draw_accuracy(small.folder / "metrics.json", output=tmp_path / "accuracy.png")
    pixels = imread(tmp_path / "accuracy.png")
    assert pixels.shape[1] > 1000
    assert pixels[..., :3].std() > 0.05


@pytest.mark.parametrize("size", ["small", "large"])
def test_confusion(size: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    experiment = request.getfixturevalue(size)
    figures.draw_confusion(experiment.folder / "metrics.json", output=tmp_path / "x.svg")
    found = texts(tmp_path / "x.svg")
    assert any("test part of split 'well'" in text for text in found)
    # Names at the axes of both panels, unless they would not fit.
    assert found.count("compound-01") == (4 if size == "small" else 0)
    assert any("never recognised" in text for text in found) == (size == "large")


@pytest.mark.parametrize("size", ["small", "large"])
def test_replicates(size: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    experiment = request.getfixturevalue(size)
    figures.draw_replicates(experiment.folder / "replicability.csv", output=tmp_path / "x.svg")
    found = texts(tmp_path / "x.svg")
    table = pd.read_csv(experiment.folder / "replicability.csv")
    title = f"{table['significant'].sum()} of {len(table) - 1} perturbations active (q &lt; 0.05)"
    assert any(text.replace("<", "&lt;").startswith(title) for text in found)
    assert "DMSO (held-out)" in found
    assert sum(text.startswith("compound-") for text in found) == min(30, len(table) - 1)


def test_replicates_of_single_wells(tmp_path: Path) -> None:
    path = tmp_path / "replicability.csv"
    path.write_text(
        "Metadata_pert_name,Metadata_pert_type,n_wells,n_plates,"
        "mean_normalized_average_precision,corrected_p_value,significant\n"
        "a,trt,1,1,,,False\n"
    )
    figures.draw_replicates(path, output=tmp_path / "x.svg")
    found = set(texts(tmp_path / "x.svg"))
    assert found == {"1 perturbation in one well each", "No perturbation has replicates"}


@pytest.mark.parametrize(("size", "last"), [("small", ("H", "12")), ("large", ("P", "23"))])
def test_plate_map(
    size: str, last: Sequence[str], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(size).folder
    figures.draw_plate_map(
        folder / "wells.h5ad",
        plate="P1",
        metrics=folder / "metrics.json",
        output=tmp_path / "x.svg",
    )
    found = texts(tmp_path / "x.svg")
    titles = ["nuclei", "embedded cells", "DNA mean intensity", "normalised average precision"]
    assert set(titles) <= set(found)
    # Five panels, each with the row letters and column numbers of the whole plate.
    assert found.count(last[0]) == 5
    assert last[1] in found


def test_dose(small: Any, tmp_path: Path) -> None:
    figures.draw_dose(small.folder / "metrics.json", output=tmp_path / "x.svg")
    found = texts(tmp_path / "x.svg")
    assert any(text.startswith("Spearman") for text in found)
    assert "treated, test part" in found


def test_dose_that_was_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"dose": null}')
    with pytest.raises(CellpipeDataError, match=r"Set evaluate\.dose_column"):
        figures.draw_dose(tmp_path / "metrics.json", output=tmp_path / "x.png")


def write_curves(folder: Path, steps: int) -> None:
    step = np.arange(1, steps + 1)
    epoch = (step - 1) // 10 + 1
    train = pd.DataFrame({"step": step, "epoch": epoch, "loss": 1 / step, "lr": 1e-3})
    train.to_csv(folder / "train.csv", index=False)


def test_training(tmp_path: Path) -> None:
    write_curves(tmp_path, 40)
    pd.DataFrame(
        {"step": [10, 20], "epoch": [1, 2], "loss": [1, 0.5], "accuracy": [0.1, 0.625]}
    ).to_csv(tmp_path / "validation.csv", index=False)
    figures.draw_training(tmp_path, output=tmp_path / "x.svg")
    found = texts(tmp_path / "x.svg")
    assert "Training, 40 steps, 4 epochs" in found
    assert "accuracy on cells (best validation 62.5%)" in found


def test_training_without_validation(tmp_path: Path) -> None:
    write_curves(tmp_path, 1)
    figures.draw_training(tmp_path, output=tmp_path / "x.svg")
    assert "not recorded" in texts(tmp_path / "x.svg")


def test_training_without_curves(tmp_path: Path) -> None:
    with pytest.raises(CellpipeDataError, match=r"train\.csv: no training curves"):
        figures.draw_training(tmp_path, output=tmp_path / "x.svg")


def write_crops(path: Path, plate: str, channels: tuple[str, ...]) -> Path:
    writer = CropWriter(path, count=6, channels=channels, size_px=8, pixel_size_um=0.5)
    rng = np.random.default_rng(0)
    writer.append(rng.integers(100, 900, (6, len(channels), 8, 8)).astype(np.uint16))
    writer.close()
    names = ["DMSO"] * 3 + ["drug"] * 3
    cells = pd.DataFrame({schema.PLATE: plate, schema.PERT_NAME: names})
    cells[schema.PERT_TYPE] = [schema.NEGCON] * 3 + ["trt"] * 3
    write_table(cells, path / CELLS_FILE)
    return path


def test_montage(tmp_path: Path) -> None:
    channels = ("DNA", "ER", "Brightfield")
    stores = [write_crops(tmp_path / f"{p}.crops.zarr", p, channels) for p in ("P1", "P2")]
    figures.draw_montage(stores, output=tmp_path / "x.svg", cells=4)
    found = texts(tmp_path / "x.svg")
    assert "Random cells, P1, P2; a tile is 4 µm wide" in found
    assert {"DMSO", "drug"} <= set(found)
    assert found.count("DNA") == 2  # a column and the legend
    assert found.count("Brightfield") == 1  # a column


def test_montage_of_few_cells_and_of_unknown(tmp_path: Path) -> None:
    store = write_crops(tmp_path / "P1.crops.zarr", "P1", ("DNA",))
    figures.draw_montage([store], output=tmp_path / "x.png", cells=10, perturbations=["drug"])
    assert (tmp_path / "x.png").exists()
    with pytest.raises(CellpipeDataError, match=r"no cells of \['nothing'\]; .*'drug'"):
        figures.draw_montage([store], output=tmp_path / "x.png", perturbations=["nothing"])


def test_montage_needs_one_set_of_channels(tmp_path: Path) -> None:
    stores = [
        write_crops(tmp_path / "a.crops.zarr", "a", ("DNA", "ER")),
        write_crops(tmp_path / "b.crops.zarr", "b", ("DNA", "RNA")),
    ]
    with pytest.raises(CellpipeValueError, match="Draw them apart"):
        figures.draw_montage(stores, output=tmp_path / "x.png")


def test_composite_shows_a_channel_in_its_colour() -> None:
    channels = ("DNA", "Brightfield", "Mito")
    image = np.zeros((3, 2, 2), np.float32)
    image[0, 0, 0] = 1
    image[1] = 1
    mixed = composite(image, channels)
    np.testing.assert_allclose(mixed[0, 0], channel_colours(channels)["DNA"])
    np.testing.assert_allclose(mixed[1, 1], 0)
    assert composite(np.ones((3, 2, 2)), channels).max() <= 1


def write_benchmark(path: Path, seconds: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"s\th:m:s\tmax_rss\tio_in\n{seconds}\t0:00:01\t2048\t-\n")
    return path


def test_throughput_by_hand(tmp_path: Path) -> None:
    counts = {"P1": Counts(sites=10, cells=1000), "P2": Counts(sites=20, cells=1000)}
    files = [
        write_benchmark(tmp_path / "embed" / "P1.tsv", 4),
        write_benchmark(tmp_path / "embed" / "P2.tsv", 6),
        write_benchmark(tmp_path / "train.tsv", 100),
    ]
    stages = summarise(files, counts)
    assert list(stages.index) == ["train", "embed"]
    assert stages.loc["embed", "seconds"] == 10
    assert stages.loc["embed", "sites_per_s"] == 3
    assert stages.loc["embed", "cells_per_s"] == 200
    assert stages.loc["train", "sites"] == 0


def test_throughput(tmp_path: Path) -> None:
    for kind, rows in (("sites", 10), ("cells", 500)):
        write_table(pd.DataFrame({"x": range(rows)}), tmp_path / f"P1.{kind}.parquet")
    figures.draw_throughput(
        [write_benchmark(tmp_path / "embed" / "P1.tsv", 2)],
        sites=[tmp_path / "P1.sites.parquet"],
        cells=[tmp_path / "P1.cells.parquet"],
        output=tmp_path / "x.svg",
    )
    found = texts(tmp_path / "x.svg")
    assert "1 plate, 10 sites, 500 nuclei; 2.0 s in all, one job after the other" in found
    assert any("250 cells/s" in text and "2.0 GB" in text for text in found)


def test_throughput_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("x\n1\n")
    with pytest.raises(CellpipeDataError, match=r"a\.tsv: not a Snakemake benchmark"):
        summarise([tmp_path / "a.tsv"], {})


@pytest.mark.slow
@pytest.mark.parametrize("size", ["small", "large"])
def test_umap(size: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    experiment = request.getfixturevalue(size)
    figures.draw_umap(experiment.embeddings, output=tmp_path / "x.svg")
    found = texts(tmp_path / "x.svg")
    named = sum(text.startswith("compound-") for text in found)
    if size == "small":
        assert named == 3
        assert "by plate" in found
    else:
        assert named == style.MOST_NAMED
        assert "140 others" in found
        assert "by position on P1" in found


def test_umap_of_too_few_cells(experiment_factory: Callable[..., Any], tmp_path: Path) -> None:
    experiment = experiment_factory(
        tmp_path, plates=1, compounds=1, replicates=1, controls=2, cells=2
    )
    with pytest.raises(CellpipeDataError, match="at least 20 cells, got 6"):
        figures.draw_umap(experiment.embeddings, output=tmp_path / "x.png")
