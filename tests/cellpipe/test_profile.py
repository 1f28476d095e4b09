"""Well and perturbation profiles against plain numpy, and the plates that cannot be profiled."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from cellpipe import schema
from cellpipe.embedding_file import write_embeddings
from cellpipe.embeddings import Embeddings
from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.profile import profile


@pytest.fixture(scope="module")
def profiled(experiment_factory: Callable[..., Any], tmp_path_factory: Any) -> Any:
    experiment = experiment_factory(tmp_path_factory.mktemp("profiled"), effect=3.0)
    run(experiment.embeddings, experiment.folder)
    return experiment


def run(embeddings: list[Path], folder: Path, **options: Any) -> None:
    profile(embeddings, wells=folder / "wells.h5ad", perturbations=folder / "means.h5ad", **options)


def cells_of(path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    data = anndata.read_h5ad(path)
    return data.obs.astype({schema.WELL: str}), np.asarray(data.X, np.float64)


def rewrite(source: Path, target: Path, **columns: Any) -> Path:
    """The same embeddings with other values in obs."""
    data = anndata.read_h5ad(source)
    obs = data.obs.astype(dict.fromkeys(data.obs.select_dtypes("category"), object))
    values = data.X
    if "keep" in columns:
        keep = columns.pop("keep")(obs).to_numpy()
        obs, values = obs[keep], values[keep]
    if "change" in columns:
        values = columns.pop("change")(values)
    with write_embeddings(
        target,
        obs.assign(**columns),
        dimension=values.shape[1],
        channels=["DNA"],
        provenance=dict(data.uns["fastchannelvim"]),
    ) as file:
        file.append(values, values[:, None])
    return target


def test_wells_are_means_of_their_cells(profiled: Any) -> None:
    wells = anndata.read_h5ad(profiled.folder / "wells.h5ad")
    obs, values = cells_of(profiled.embeddings[0])
    expected = values[(obs[schema.WELL] == "B02").to_numpy()].mean(axis=0)
    found = wells["source_1__batch_1__P1__B02"].layers["raw"][0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_wells_are_standardised_on_the_controls_of_their_plate(profiled: Any) -> None:
    wells = anndata.read_h5ad(profiled.folder / "wells.h5ad")
    for plate in ("P1", "P2"):
        here = wells[wells.obs[schema.PLATE] == plate]
        control = (here.obs[schema.PERT_TYPE] == schema.NEGCON).to_numpy()
        raw = np.asarray(here.layers["raw"], np.float64)
        expected = (raw - raw[control].mean(axis=0)) / raw[control].std(axis=0)
        np.testing.assert_allclose(here.X, expected, atol=1e-4)


def test_perturbations_are_means_of_their_wells(profiled: Any) -> None:
    wells = anndata.read_h5ad(profiled.folder / "wells.h5ad")
    means = anndata.read_h5ad(profiled.folder / "means.h5ad")
    assert list(means.obs_names) == profiled.classes
    mask = (wells.obs[schema.PERT_NAME] == "compound-01").to_numpy()
    np.testing.assert_allclose(means["compound-01"].X[0], wells.X[mask].mean(axis=0), rtol=1e-5)
    assert means.obs.loc["compound-01", "Count_Wells"] == 8
    assert means.obs.loc["compound-01", "Count_Plates"] == 2


def test_obs_describes_wells(profiled: Any) -> None:
    wells = anndata.read_h5ad(profiled.folder / "wells.h5ad")
    obs, _ = cells_of(profiled.embeddings[0])
    here = obs[obs[schema.WELL] == "A01"]
    sites = here.drop_duplicates(schema.SITE)
    found = wells.obs.loc["source_1__batch_1__P1__A01"]
    assert found["Count_Cells"] == len(here)
    assert found["Count_Sites"] == len(sites)
    assert found[schema.CELL_COUNT] == sites[schema.CELL_COUNT].sum()
    assert found["QC_DNA_mean"] == pytest.approx(sites["QC_DNA_mean"].mean())
    assert schema.SITE not in wells.obs
    assert schema.OBJECT not in wells.obs


def test_provenance_is_copied(profiled: Any) -> None:
    expected = Embeddings.open(profiled.embeddings[0]).provenance["weights_sha256"]
    for name in ("wells.h5ad", "means.h5ad"):
        assert anndata.read_h5ad(profiled.folder / name).uns["fastchannelvim"][
            "weights_sha256"
        ] == (expected)


def test_constant_feature_stays_finite(profiled: Any, tmp_path: Path) -> None:
    def constant(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values[:, 3] = 0.1
        return values

    run([rewrite(profiled.embeddings[0], tmp_path / "P1.h5ad", change=constant)], tmp_path)
    wells = anndata.read_h5ad(tmp_path / "wells.h5ad")
    assert np.isfinite(wells.X).all()
    np.testing.assert_allclose(wells.X[:, 3], 0, atol=1e-5)


def test_plate_without_controls_is_named(profiled: Any, tmp_path: Path) -> None:
    path = rewrite(profiled.embeddings[0], tmp_path / "P1.h5ad", **{schema.PERT_TYPE: "trt"})
    with pytest.raises(CellpipeDataError, match=r"plate P1: .*got 0.*mark them in the platemap"):
        run([path], tmp_path)
    assert not (tmp_path / "wells.h5ad").exists()


def test_plate_without_platemap(experiment_factory: Callable[..., Any], tmp_path: Path) -> None:
    experiment = experiment_factory(tmp_path / "bare", plates=1, with_platemap=False)
    with pytest.raises(CellpipeDataError, match=r"plate P1: .*Metadata_pert.*with a platemap"):
        run(experiment.embeddings, tmp_path)


def test_wells_without_cells_are_listed(profiled: Any, tmp_path: Path, caplog: Any) -> None:
    path = rewrite(
        profiled.embeddings[0], tmp_path / "P1.h5ad", keep=lambda obs: obs[schema.WELL] != "A02"
    )
    obs, _ = cells_of(profiled.embeddings[0])
    obs[[schema.PLATE, schema.WELL]].drop_duplicates().astype(str).to_parquet(
        tmp_path / "P1.sites.parquet"
    )
    run([path], tmp_path, sites=[tmp_path / "P1.sites.parquet"])
    wells = anndata.read_h5ad(tmp_path / "wells.h5ad")
    assert list(wells.uns["profile"]["wells_without_cells"]) == ["P1__A02"]
    assert "A02" not in set(wells.obs[schema.WELL])
    assert "P1__A02" in caplog.text


def test_wells_of_no_perturbation_are_left_out_of_the_means(profiled: Any, tmp_path: Path) -> None:
    data = anndata.read_h5ad(profiled.embeddings[0])
    name = data.obs[schema.PERT_NAME].astype(str)
    name = name.where(name != "compound-00", "")
    run(
        [rewrite(profiled.embeddings[0], tmp_path / "P1.h5ad", **{schema.PERT_NAME: name})],
        tmp_path,
    )
    means = anndata.read_h5ad(tmp_path / "means.h5ad")
    assert list(means.obs_names) == ["DMSO", "compound-01", "compound-02"]
    assert anndata.read_h5ad(tmp_path / "wells.h5ad").n_obs == data.obs[schema.WELL].nunique()


def test_two_models_do_not_mix(
    profiled: Any, experiment_factory: Callable[..., Any], tmp_path: Path
) -> None:
    other = experiment_factory(tmp_path / "other", plates=2, dimension=6)
    with pytest.raises(CellpipeDataError, match="embeddings of two models"):
        run([profiled.embeddings[0], other.embeddings[1]], tmp_path)


def test_plate_given_twice(profiled: Any, tmp_path: Path) -> None:
    with pytest.raises(CellpipeValueError, match="given twice"):
        run([profiled.embeddings[0]] * 2, tmp_path)


def test_rows_are_read_in_the_order_asked(profiled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cellpipe.embeddings.BLOCK", 7)
    file = Embeddings.open(profiled.embeddings[0])
    _, values = cells_of(profiled.embeddings[0])
    rows = np.array([200, 3, 3, 17, 90])
    np.testing.assert_array_equal(file.read(rows), values[rows].astype(np.float32))
    np.testing.assert_array_equal(np.concatenate([x for _, x in file.blocks()]), values)


def test_not_an_embeddings_file(tmp_path: Path) -> None:
    (tmp_path / "x.h5ad").write_text("no")
    with pytest.raises(CellpipeDataError, match="not an embeddings file"):
        Embeddings.open(tmp_path / "x.h5ad")


def test_a_plate_without_cells_is_left_out_and_named(experiment_factory, tmp_path, caplog):
    experiment = experiment_factory(tmp_path / "plates")
    filled = anndata.read_h5ad(experiment.embeddings[0])
    empty = tmp_path / "P9.h5ad"
    filled[:0].copy().write_h5ad(empty)
    profile(
        [*experiment.embeddings, empty],
        wells=tmp_path / "wells.h5ad",
        perturbations=tmp_path / "perturbations.h5ad",
    )
    assert "P9.h5ad holds no cells" in caplog.text
    plates = set(anndata.read_h5ad(tmp_path / "wells.h5ad").obs["Metadata_Plate"])
    assert plates == {"P1", "P2"}
    with pytest.raises(CellpipeDataError, match="at least one cell"):
        profile([empty], wells=tmp_path / "w.h5ad", perturbations=tmp_path / "p.h5ad")
