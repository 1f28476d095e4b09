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
    results = folder / "results" / "imagenet"
    assert (results / "evaluations" / "val.md").read_text() in run.stdout
    return results


@pytest.fixture(scope="module")
def mae(snakemake, tmp_path_factory):
    """The embedded default: pre-training, both probes, fine-tuning."""
    folder = tmp_path_factory.mktemp("mae")
    run = snakemake("mae_probe", "mae_finetune", folder=folder)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-10000:]
    return folder / "results" / "mae"


@pytest.fixture(scope="module")
def two_processes(snakemake, root, tmp_path_factory):
    """A short training in two processes, on the CPU where there are no two GPUs."""
    folder = tmp_path_factory.mktemp("two")
    short = {"recipe.epochs": 1, "recipe.warmup_epochs": 0}
    one = {"name": "fastvim", "config": "config/imagenet/digits.yaml", "set": short}
    config = {"imagenet": {"gpus": 2, "experiments": [one], "evaluate": {"limit": 50}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    run = snakemake("--configfile", folder / "config.yaml", "--", "imagenet_train", folder=folder)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-10000:]
    return folder / "results" / "imagenet"


def top1(read_json, results, name):
    return read_json(results / "evaluations" / name / "metrics.json")["top1"]


def test_fastvim_reads_held_out_digits(imagenet, read_json):
    assert top1(read_json, imagenet, "fastvim/val/plain") >= 0.97
    assert top1(read_json, imagenet, "fastvim/val/ema") >= 0.97
    evaluation = imagenet / "evaluations" / "fastvim" / "val" / "ema"
    predictions = pd.read_parquet(evaluation / "predictions.parquet")
    assert len(predictions) == 360
    for picture in ("reliability.png", "confused.png"):
        assert (evaluation / picture).stat().st_size > 10_000
    table = pd.read_csv(imagenet / "comparison.csv")
    assert list(table["name"]) == ["fastvim", "fastvim"]
    assert set(table["weights"]) == {"plain", "ema"}


def test_two_processes_train_one_model(two_processes):
    log = (two_processes / "logs" / "train" / "fastvim.log").read_text()
    assert "A step sees 64 images: 2 processes × 1 accumulated part × 32 images" in log
    assert len(pd.read_csv(two_processes / "comparison.csv")) == 2


def test_pretraining_helps_a_linear_probe(mae, read_json):
    # an untrained probe has learned positions near zero; with MAE's fixed ones it is better
    assert top1(read_json, mae, "probe") - top1(read_json, mae, "probe_random") >= 0.15


def test_pretraining_draws_what_it_fills_in(mae):
    pictures = sorted(mae.glob("checkpoints/pretrain-*/pictures/epoch_*.png"))
    assert len(pictures) >= 2


def test_fine_tuning_reads_held_out_digits(mae, read_json):
    assert top1(read_json, mae, "finetune") >= 0.95
