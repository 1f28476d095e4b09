"""The workflows of natural images, run for real on handwritten digits, to the scores they claim."""

import pandas as pd
import pytest
import yaml

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def imagenet(snakemake, root, tmp_path_factory):
    """The embedded default, its FastVim alone: three models would take three times as long."""
    folder = tmp_path_factory.mktemp("imagenet")
    config = yaml.safe_load((root / "config" / "imagenet.yaml").read_text())
    kept = [e for e in config["imagenet"]["experiments"] if e["name"] == "fastvim"]
    config["imagenet"]["experiments"] = kept
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    run = snakemake(
        "--configfile", folder / "config.yaml", "--", "imagenet_train", "imagenet_eval",
        folder=folder,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-10000:]
    return folder / "results" / "imagenet"


@pytest.fixture(scope="module")
def mae(snakemake, tmp_path_factory):
    """The embedded default: pre-training, both probes, fine-tuning."""
    folder = tmp_path_factory.mktemp("mae")
    run = snakemake("mae_probe", "mae_finetune", folder=folder)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-10000:]
    return folder / "results" / "mae"


def top1(read_json, results, name):
    return read_json(results / "evaluations" / name / "metrics.json")["top1"]


def test_fastvim_reads_held_out_digits(imagenet, read_json):
    assert top1(read_json, imagenet, "fastvim") >= 0.97
    evaluation = imagenet / "evaluations" / "fastvim"
    predictions = pd.read_parquet(evaluation / "predictions.parquet")
    assert len(predictions) == 360
    for picture in ("reliability.png", "confused.png"):
        assert (evaluation / picture).stat().st_size > 10_000
    assert "FastVim" in (imagenet / "comparison.md").read_text()


def test_pretraining_helps_a_linear_probe(mae, read_json):
    # an untrained probe has learned positions near zero; with MAE's fixed ones it is better
    assert top1(read_json, mae, "probe") - top1(read_json, mae, "probe_random") >= 0.15


def test_pretraining_draws_what_it_fills_in(mae):
    pictures = sorted(mae.glob("checkpoints/pretrain-*/pictures/epoch_*.png"))
    assert len(pictures) >= 2


def test_fine_tuning_reads_held_out_digits(mae, read_json):
    assert top1(read_json, mae, "finetune") >= 0.95
