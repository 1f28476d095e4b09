"""The main job on the embedded default: what it makes, checked against what was drawn."""

import json
import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy
import yaml

from cellpipe import schema
from cellpipe.illumination import Illumination
from cellpipe.plate import Plate

pytestmark = pytest.mark.slow

PLATES = ("SIM0001", "SIM0002")
STRONG = ("cytotoxol", "mitofragin", "nucleolostat", "nucleomegalin")


def test_held_out_wells_are_classified_three_times_above_chance(demo, read_json):
    metrics = read_json(demo.results / "metrics.json")
    assert metrics["split"] == "well"
    for level in ("cell", "well"):
        head = metrics["classification"]["head"]["test"][level]
        assert head["balanced_accuracy"] >= 3 * head["chance"], level


def test_strong_perturbations_are_significant_and_controls_are_not(demo):
    table = pd.read_csv(demo.results / "replicability.csv").set_index(schema.PERT_NAME)
    assert (table.loc[list(STRONG), "corrected_p_value"] < 0.05).all()
    held_out = table.iloc[-1]
    assert held_out["p_value"] > 0.05
    assert "inertamide" in table.index


def test_nuclei_match_the_truth(demo):
    truth_folder = demo.folder / "data" / "simulated" / "truth"
    hits = found = true = 0
    for name in PLATES:
        plate = Plate.open(demo.results / "plates" / f"{name}.sites.parquet")
        truth = np.load(truth_folder / "nuclei" / f"{name}.npz")
        for row, site in plate.sites.iterrows():
            drawn = truth[f"{site[schema.WELL]}_{site[schema.SITE]}"].astype(np.int64)
            labels = plate.read_labels(row).astype(np.int64)
            overlap = np.zeros((labels.max() + 1, drawn.max() + 1), np.int64)
            np.add.at(overlap, (labels.ravel(), drawn.ravel()), 1)
            union = overlap.sum(1, keepdims=True) + overlap.sum(0, keepdims=True) - overlap
            hits += int((overlap / np.maximum(union, 1) > 0.5)[1:, 1:].sum())
            found, true = found + int(labels.max()), true + int(drawn.max())
    f1 = 2 * hits / (found + true)
    print(f"simulated nuclei: F1 {f1:.3f} over {true}")
    assert f1 >= 0.9


def test_illumination_is_within_five_percent_of_the_truth(demo):
    for name in PLATES:
        estimate = Illumination.load(demo.results / "plates" / f"{name}.illumination.npz")
        truth = np.load(
            demo.folder / "data" / "simulated" / "truth" / "illumination" / f"{name}.npz"
        )
        for channel, field in estimate.flatfield.items():
            ratio = field / truth[channel]
            worst = float(np.abs(ratio / ratio.mean() - 1).max())
            assert worst < 0.05, f"{name} {channel}: {worst:.3f}"


def test_scanpy_reads_and_plots_the_embeddings(demo):
    cells = scanpy.read_h5ad(demo.results / "embeddings" / "SIM0001.h5ad")
    assert cells.n_obs > 500
    assert {"X_fastchannelvim", "X_DNA", "X_HighZBF"} <= set(cells.obsm)
    cells = cells[:300].copy()
    scanpy.pp.neighbors(cells)
    scanpy.tl.umap(cells)
    scanpy.pl.umap(cells, color="Metadata_pert_name", show=False)


def test_the_report_is_one_page_with_every_figure(demo):
    page = (demo.results / "report.html").read_text()
    for figure in ("umap", "montage", "training", "accuracy", "confusion", "replicates"):
        assert f"{figure}.png" in page
        assert (demo.results / "figures" / f"{figure}.png").stat().st_size > 10_000
    for name in PLATES:
        assert (demo.results / "figures" / "plate" / f"{name}.png").stat().st_size > 10_000


def test_nothing_is_left_to_do(demo, snakemake):
    again = snakemake("-n", "jumpcp_train", folder=demo.folder)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_fields_are_embedded_by_the_checkpoint_without_training(demo, root, snakemake):
    config = yaml.safe_load((root / "config" / "jumpcp.yaml").read_text())
    config["jumpcp"]["embed"] = {"checkpoint": str(demo.results / "model"), "mode": "fields"}
    path = demo.folder / "fields.yaml"
    path.write_text(yaml.safe_dump(config))
    before = (demo.results / "model" / "model.safetensors").stat().st_mtime_ns
    run = snakemake("--configfile", path, "--", "jumpcp_embed", folder=demo.folder)
    assert run.returncode == 0, run.stderr[-5000:]
    assert (demo.results / "model" / "model.safetensors").stat().st_mtime_ns == before
    fields = anndata.read_h5ad(demo.results / "embedded" / "fields" / "SIM0002.h5ad")
    assert fields.n_obs == len(Plate.open(demo.results / "plates" / "SIM0002.sites.parquet").sites)


def test_training_resumes_after_a_kill_and_ends_with_the_same_weights(demo, snakemake):
    """The checkpoint folder outlives the failed job; its newest file is a step of the same run."""
    (training,) = (demo.results / "checkpoints").iterdir()
    kept = sorted((training / "checkpoints").glob("step-*.pt"))
    assert len(kept) >= 2
    weights = (demo.results / "model" / "model.safetensors").read_bytes()
    # As a kill before the last step leaves things: no model, no last checkpoint.
    kept[-1].unlink()
    shutil.rmtree(demo.results / "model")
    run = snakemake("results/jumpcp/model", folder=demo.folder)
    assert run.returncode == 0, run.stderr[-5000:]
    assert (demo.results / "model" / "model.safetensors").read_bytes() == weights
    steps = pd.read_csv(training / "train.csv")["step"]
    assert steps.is_unique
    assert json.loads((demo.results / "model" / "cellpipe.json").read_text())["split"] == "well"
