"""Scores on embeddings whose answer is known: separated classes, and no signal at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from copairs.map import average_precision, mean_average_precision

from cellpipe import schema
from cellpipe.classification import Head, label_rows
from cellpipe.dose import dose_readout
from cellpipe.embedding_file import write_embeddings
from cellpipe.embeddings import Embeddings, as_text
from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.evaluate import evaluate
from cellpipe.profile import profile
from cellpipe.replicability import replicability
from cellpipe.scores import score
from cellpipe.split import Split


def run(experiment: Any, **options: Any) -> dict[str, Any]:
    folder = experiment.folder
    if not (folder / "wells.h5ad").exists():
        profile(
            experiment.embeddings,
            wells=folder / "wells.h5ad",
            perturbations=folder / "perturbations.h5ad",
        )
    chosen = {"split": experiment.split, "model": experiment.model} | options
    evaluate(
        experiment.embeddings,
        wells=folder / "wells.h5ad",
        output=folder / "metrics.json",
        predictions=folder / "predictions.parquet",
        replicability=folder / "replicability.csv",
        **chosen,
    )
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def separated(experiment_factory: Callable[..., Any], tmp_path_factory: Any) -> Any:
    """Classes 30 standard deviations apart on one plate."""
    experiment = experiment_factory(
        tmp_path_factory.mktemp("separated"), plates=1, effect=30.0, well_noise=0.1
    )
    return experiment, run(experiment, dose_column="Metadata_dose")


@pytest.fixture(scope="module")
def null(experiment_factory: Callable[..., Any], tmp_path_factory: Any) -> Any:
    experiment = experiment_factory(
        tmp_path_factory.mktemp("null"), compounds=15, cells=3, controls=20, replicates=3
    )
    return experiment, run(experiment)


def test_score_by_hand() -> None:
    result = score(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), ["a", "b", "c"])
    assert result["accuracy"] == pytest.approx(3 / 4)
    assert result["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert result["majority"] == pytest.approx(3 / 4)
    assert result["chance"] == pytest.approx(1 / 2)
    assert result["recall"] == {"a": pytest.approx(2 / 3), "b": 1.0, "c": None}
    assert result["confusion"] == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_score_of_nothing() -> None:
    empty = np.empty(0, int)
    assert score(empty, empty, ["a"]) == {
        "n": 0,
        **dict.fromkeys(
            ["accuracy", "balanced_accuracy", "majority", "chance", "recall", "confusion"]
        ),
    }


def test_separated_classes_are_all_recognised(separated: Any) -> None:
    _, metrics = separated
    assert metrics["split"] == "well"
    for method in ("knn", "intensity"):
        for level in ("cell", "well"):
            # Neighbours by angle: a control cell near the origin can point anywhere.
            recall = metrics["classification"][method]["test"][level]["recall"]
            assert min(recall[name] for name in metrics["labels"][1:]) > 0.9


def test_head_agrees_with_logits_by_hand(separated: Any) -> None:
    experiment, metrics = separated
    head = Head.read(experiment.model)
    split = Split.read(experiment.split)
    data = anndata.read_h5ad(experiment.embeddings[0])
    table = split.cells.set_index("cell_id").loc[data.obs_names]
    best = np.array(head.labels)[(data.X @ head.weight.T + head.bias).argmax(axis=1)]
    test = (table["split"] == "test").to_numpy()
    expected = (best[test] == table["label"].to_numpy()[test]).mean()
    found = metrics["classification"]["head"]["test"]["cell"]
    assert found["n"] == test.sum()
    assert found["accuracy"] == pytest.approx(expected)


def test_accuracy_of_the_exact_head_is_one(
    experiment_factory: Callable[..., Any], tmp_path: Path
) -> None:
    """Centres 40 apart, which the offset of the plate (about 1) cannot bridge."""
    experiment = experiment_factory(tmp_path, plates=1, effect=40.0, compounds=4, well_noise=0.1)
    metrics = run(experiment)
    for level in ("cell", "well"):
        result = metrics["classification"]["head"]["test"][level]
        assert result["accuracy"] == result["balanced_accuracy"] == 1.0
        assert (np.array(result["confusion"]) == np.diag(np.diag(result["confusion"]))).all()


def test_fields_take_the_class_of_their_well(separated: Any, tmp_path: Path) -> None:
    experiment, _ = separated
    data = anndata.read_h5ad(experiment.embeddings[0])
    obs = as_text(data.obs).drop(columns=[schema.OBJECT, schema.CELL_COUNT])
    first = ~obs.duplicated([schema.WELL, schema.SITE]).to_numpy()
    obs = obs[first].set_index(pd.Index([name.rpartition("__")[0] for name in obs.index[first]]))
    with write_embeddings(
        tmp_path / "P1.h5ad",
        obs,
        dimension=data.n_vars,
        channels=["DNA"],
        provenance=dict(data.uns["fastchannelvim"]),
    ) as file:
        file.append(data.X[first], data.X[first][:, None])
    fields = Embeddings.open(tmp_path / "P1.h5ad")
    split = Split.read(experiment.split)
    rows = label_rows([fields], split)
    wells = split.cells.drop_duplicates(schema.WELL).set_index(schema.WELL)
    assert len(rows) == first.sum()
    assert (rows["label"].to_numpy() == wells.loc[rows[schema.WELL], "label"].to_numpy()).all()

    split.cells["split"] = np.resize(["train", "test"], len(split.cells))
    with pytest.raises(CellpipeDataError, match="Split by well or by plate"):
        label_rows([fields], split)


def test_predictions_add_up_to_the_metrics(separated: Any) -> None:
    experiment, metrics = separated
    table = pd.read_parquet(experiment.folder / "predictions.parquet")
    assert set(table["split"]) == {"train", "val", "test"}
    for level in ("cell", "well"):
        here = table[(table["level"] == level) & (table["split"] == "test")]
        result = metrics["classification"]["head"]["test"][level]
        assert len(here) == result["n"]
        assert (here["label"] == here["predicted"]).mean() == pytest.approx(result["accuracy"])


def test_well_takes_the_mean_probability_of_its_cells(separated: Any) -> None:
    experiment, _ = separated
    file = Embeddings.open(experiment.embeddings[0])
    head = Head.read(experiment.model)
    rows = label_rows([file], Split.read(experiment.split))
    well = rows[rows[schema.WELL] == "A01"]
    mean = head.probabilities(file.read(well["row"].to_numpy()), head.labels).mean(axis=0)
    table = pd.read_parquet(experiment.folder / "predictions.parquet")
    found = table[(table["level"] == "well") & (table[schema.WELL] == "A01")].iloc[0]
    assert found["predicted"] == head.labels[mean.argmax()]
    assert found["probability"] == pytest.approx(mean.max(), rel=1e-5)


def test_counts_by_part(separated: Any) -> None:
    experiment, metrics = separated
    cells = Split.read(experiment.split).cells
    for part, count in metrics["counts"].items():
        here = cells[cells["split"] == part]
        assert count == {"cells": len(here), "wells": here[schema.WELL].nunique()}


def test_strong_perturbations_are_active(separated: Any) -> None:
    experiment, metrics = separated
    table = pd.read_csv(experiment.folder / "replicability.csv")
    assert (table["corrected_p_value"][:3] < 0.05).all()
    assert table["significant"][:3].all()
    assert metrics["replicability"]["significant"] == 3


def test_null_is_not_active(null: Any) -> None:
    experiment, metrics = null
    table = pd.read_csv(experiment.folder / "replicability.csv")
    assert table["significant"].sum() == 0
    assert abs(table["mean_normalized_average_precision"].mean()) < 0.15
    held_out = table.iloc[-1]
    assert held_out[schema.PERT_NAME] == "DMSO (held-out)"
    assert held_out["p_value"] > 0.2
    assert metrics["replicability"]["dmso_held_out"]["fraction_below_threshold"] <= 0.12


@pytest.mark.parametrize("controls", [8, 64])
def test_held_out_controls_tell_whether_p_values_are_right(controls: int, caplog: Any) -> None:
    """The mean of few controls is off, and all compounds of a plate share that."""
    rng = np.random.default_rng(1)
    names = ["DMSO"] * controls + [f"c{i // 2}" for i in range(200)]
    obs = pd.DataFrame({schema.PLATE: "P1", schema.WELL: "A01", schema.PERT_NAME: names})
    obs[schema.PERT_TYPE] = np.where(obs[schema.PERT_NAME] == "DMSO", schema.NEGCON, "trt")
    values = rng.normal(size=(len(obs), 64))
    reference = values[:controls]
    values = (values - reference.mean(axis=0)) / reference.std(axis=0)
    found = replicability(obs, values, perturbation=schema.PERT_NAME, seed=0)
    wrong = (found.table["p_value"][:-1] < 0.05).mean()
    told = found.summary["dmso_held_out"]["fraction_below_threshold"]
    too_small = controls == 8
    assert (wrong > 0.15) == too_small
    assert (told > 0.15) == too_small
    assert ("p-values are too small" in caplog.text) == too_small


def test_replicability_is_the_recipe_of_jump(null: Any, tmp_path: Path) -> None:
    experiment, _ = null
    wells = anndata.read_h5ad(experiment.folder / "wells.h5ad")
    obs = as_text(wells.obs).reset_index(drop=True)
    precision = average_precision(
        obs,
        wells.X,
        pos_sameby=[schema.PERT_NAME],
        pos_diffby=[],
        neg_sameby=[schema.PLATE],
        neg_diffby=[schema.PERT_TYPE, schema.PERT_NAME],
        progress_bar=False,
    )
    expected = mean_average_precision(
        precision[precision[schema.PERT_TYPE] == "trt"],
        [schema.PERT_NAME],
        null_size=10_000,
        threshold=0.05,
        seed=0,
        progress_bar=False,
        cache_dir=tmp_path,
    )
    found = pd.read_csv(experiment.folder / "replicability.csv").iloc[:-1]
    for column in ("mean_average_precision", "p_value", "corrected_p_value"):
        np.testing.assert_allclose(found[column], expected[column], rtol=1e-5)


def test_single_replicates_are_listed_with_a_reason(
    experiment_factory: Callable[..., Any], tmp_path: Path
) -> None:
    experiment = experiment_factory(tmp_path, plates=1, replicates=1)
    metrics = run(experiment)
    table = pd.read_csv(experiment.folder / "replicability.csv")
    assert list(table["reason"][:3]) == ["fewer than 2 wells"] * 3
    assert table["p_value"][:3].isna().all()
    assert not table["significant"].any()
    assert metrics["replicability"]["tested"] == 0


def test_positive_controls_are_no_negatives_of_others() -> None:
    rng = np.random.default_rng(0)
    names = ["DMSO"] * 8 + ["pos"] * 4 + ["x"] * 4
    obs = pd.DataFrame({schema.PLATE: "P1", schema.WELL: "A01", schema.PERT_NAME: names})
    obs[schema.PERT_TYPE] = [schema.NEGCON] * 8 + ["poscon"] * 4 + ["trt"] * 4
    values = rng.normal(size=(16, 4))
    both = replicability(obs, values, perturbation=schema.PERT_NAME, seed=0).table
    keep = (obs[schema.PERT_TYPE] != "poscon").to_numpy()
    alone = replicability(obs[keep], values[keep], perturbation=schema.PERT_NAME, seed=0).table
    value = "mean_average_precision"
    name = schema.PERT_NAME
    assert both.set_index(name).loc["x", value] == alone.set_index(name).loc["x", value]
    assert both.set_index(name).loc["pos", "n_wells"] == 4


def test_dose_of_an_ordered_feature() -> None:
    dose = np.repeat([0.0, 0.1, 1.0, 10.0, 100.0], 4)
    obs = pd.DataFrame({schema.PLATE: "P1", schema.WELL: "A01", "dose": dose})
    obs[schema.PERT_TYPE] = "trt"
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20, 6))
    values[:, 2] += 10 * np.log10(dose + 0.01)
    parts = pd.Series(["train", "train", "val", "test"] * 5)
    result = dose_readout(obs, values, parts, column="dose")
    assert min(result["spearman"].values()) > 0.9
    assert result["n"] == 20
    assert result["n_held_out"] == 5
    held_out = [well["held_out"] is not None for well in result["wells"]]
    assert held_out == [False, False, False, True] * 5


def test_dose_without_signal_is_not_anticorrelated() -> None:
    dose = np.repeat(np.arange(8.0), 4)
    obs = pd.DataFrame({schema.PLATE: "P1", schema.WELL: "A01", "dose": dose})
    obs[schema.PERT_TYPE] = "trt"
    parts = pd.Series("", index=obs.index)
    found = [
        dose_readout(obs, np.random.default_rng(seed).normal(size=(32, 8)), parts, column="dose")[
            "spearman"
        ]["cross_validated"]
        for seed in range(4)
    ]
    assert np.mean(found) > -0.4


def test_dose_column_must_hold_numbers(separated: Any) -> None:
    experiment, metrics = separated
    assert metrics["dose"]["n"] == 24
    with pytest.raises(CellpipeValueError, match="no column 'Metadata_nope'"):
        run(experiment, dose_column="Metadata_nope")
    with pytest.raises(CellpipeValueError, match="holds a number in 0 wells"):
        run(experiment, dose_column=schema.PERT_NAME)


def test_foreign_model_is_refused(
    separated: Any, experiment_factory: Callable[..., Any], tmp_path: Path
) -> None:
    other = experiment_factory(tmp_path, plates=1, compounds=2)
    with pytest.raises(CellpipeDataError, match="embedded by other weights"):
        run(separated[0], model=other.model)
    with pytest.raises(CellpipeDataError, match="not a model folder"):
        run(separated[0], model=tmp_path / "nothing")


def test_split_of_other_cells_is_refused(separated: Any, tmp_path: Path) -> None:
    experiment, _ = separated
    text = experiment.split.read_text().replace("source_1__", "source_9__")
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(CellpipeDataError, match="is in the split"):
        run(experiment, split=tmp_path / "split.csv")


def test_split_of_other_classes_is_refused(separated: Any, tmp_path: Path) -> None:
    experiment, _ = separated
    text = experiment.split.read_text().replace("compound-02", "compound-99")
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(CellpipeDataError, match=r"compound-02.*Train on this split"):
        run(experiment, split=tmp_path / "split.csv")
