"""The workflow without running it: lint, dry runs, configuration."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def planned(run):
    """Names of the rules in a dry run's table of jobs."""
    assert run.returncode == 0, run.stderr + run.stdout
    lines = (run.stdout + run.stderr).splitlines()
    return {line.split()[0] for line in lines if line.startswith("jumpcp_")}


def configured(tmp_path, **changes):
    config = yaml.safe_load((ROOT / "config" / "jumpcp.yaml").read_text())
    config["jumpcp"] |= changes
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_lint_is_clean(snakemake):
    run = snakemake("--lint")
    assert run.returncode == 0
    assert "good condition" in run.stdout + run.stderr


def test_every_job_logs_is_measured_and_has_threads():
    for file in (ROOT / "workflows" / "jumpcp" / "rules").glob("*.smk"):
        rules = file.read_text().split("\nrule ")[1:] or (
            [file.read_text()] if file.read_text().startswith("rule ") else []
        )
        for rule in rules:
            for directive in ("log:", "benchmark:", "threads:", "shell:"):
                assert directive in rule, f"{file.name}: {rule.splitlines()[0]} lacks {directive}"


def test_train_plans_every_stage(snakemake, tmp_path):
    rules = planned(snakemake("-n", "jumpcp_train", folder=tmp_path))
    stages = ["simulate", "ingest_plate", "illumination", "segment", "crops", "split"]
    stages += ["train_model", "embed_plate", "profile", "evaluate", "report"]
    assert {f"jumpcp_{stage}" for stage in stages} <= rules


def test_ingest_stops_after_ingest(snakemake, tmp_path):
    rules = planned(snakemake("-n", "jumpcp_ingest", folder=tmp_path))
    assert rules == {"jumpcp_simulate", "jumpcp_ingest_plate", "jumpcp_ingest"}


@pytest.mark.parametrize(("mode", "segments"), [("cells", True), ("fields", False)])
def test_embed_never_trains(snakemake, tmp_path, mode, segments):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "cellpipe.json").write_text("{}")
    config = configured(tmp_path, embed={"checkpoint": "model", "mode": mode})
    run = snakemake("-n", "--configfile", config, "--", "jumpcp_embed", folder=tmp_path)
    rules = planned(run)
    assert "jumpcp_train_model" not in rules
    assert f"jumpcp_embed_{mode}_by_checkpoint" in rules
    assert ("jumpcp_segment" in rules) == segments


def test_embed_without_a_checkpoint_says_what_is_missing(snakemake, tmp_path):
    run = snakemake("-n", "jumpcp_embed", folder=tmp_path)
    assert run.returncode != 0
    assert "embed.checkpoint" in run.stdout + run.stderr


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"platez": []}, "platez"),
        ({"crops": {"size": 64}}, "size"),
        ({"split": {"name": "wells"}}, "wells"),
        ({"segment": {"nucleus_diameter": "15 um"}}, "nucleus_diameter"),
        ({"plates": [{"name": "A"}]}, "source"),
        ({"train": {"recipe": {"epochz": 3}}}, "epochz"),
        ({"train": {"augment": {"shift": 3}}}, "shift"),
        ({"plates": [{"name": "A", "source": "x"}, {"name": "A", "source": "y"}]}, "plates"),
    ],
)
def test_a_wrong_key_is_named(snakemake, tmp_path, changes, named):
    config = configured(tmp_path, **changes)
    run = snakemake("-n", "--configfile", config, "--", "jumpcp_train", folder=tmp_path)
    assert run.returncode != 0
    assert named in run.stdout + run.stderr


@pytest.mark.parametrize("example", sorted((ROOT / "config" / "examples").glob("*.yaml")))
def test_examples_are_valid(snakemake, tmp_path, example):
    """A dry run ends at the missing images, not at the configuration."""
    run = snakemake("-n", "--configfile", example, "--", "jumpcp_train", folder=tmp_path)
    output = run.stdout + run.stderr
    assert run.returncode == 0 or "Missing input files" in output, output
    assert "Error validating" not in output


def test_another_top_level_key_is_named(snakemake, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("jumpc: {plates: []}\n")
    run = snakemake("-n", "--configfile", path, "--", "jumpcp_train", folder=tmp_path)
    assert run.returncode != 0
    assert "jumpc" in run.stdout + run.stderr
    assert "jumpcp_simulate" not in run.stdout + run.stderr


def test_small_numbers_and_null_arrive_as_they_are(snakemake, tmp_path):
    recipe = {"min_lr": 1.0e-6, "clip_grad_norm": None, "betas": [0.9, 0.95]}
    config = configured(tmp_path, train={"recipe": recipe})
    run = snakemake("-n", "-p", "--configfile", config, "--", "jumpcp_train", folder=tmp_path)
    assert "min_lr=1e-06" in run.stdout
    assert "clip_grad_norm=null" in run.stdout
    from cellpipe.cli import _values

    read = _values("--recipe", ["min_lr=1e-06", "clip_grad_norm=null", "betas=[0.9, 0.95]"])
    assert read == recipe
    typed = _values("--model", ["collapse_method=max", "hcs=False", 'scan_order="spatial-first"'])
    assert typed == {"collapse_method": "max", "hcs": False, "scan_order": "spatial-first"}


def test_a_checkpoint_that_is_not_there_is_named(snakemake, tmp_path):
    config = configured(tmp_path, embed={"checkpoint": "nowhere", "mode": "cells"})
    run = snakemake("-n", "--configfile", config, "--", "jumpcp_embed", folder=tmp_path)
    assert run.returncode != 0
    assert "nowhere is not a model folder" in run.stdout + run.stderr
