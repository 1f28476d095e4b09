"""The command as a user meets it: help, one-line errors, options that are passed on."""

import subprocess
import sys

import pytest

STAGES = [
    "simulate",
    "ingest",
    "illumination",
    "segment",
    "crops",
    "split",
    "train",
    "embed",
    "profile",
    "evaluate",
    "figure",
]


def cellpipe(*arguments):
    code = "from cellpipe.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_names_every_stage(option):
    run = cellpipe(option)
    assert run.returncode == 0
    for stage in STAGES:
        assert f" {stage} " in run.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["split", "nowhere.parquet", "--output", "s.csv", "--name", "wells"],
            "error: split.name: expected one of ['well', 'paper', 'plate'], got 'wells'",
        ),
        (
            ["illumination", "p.parquet", "--output", "f.npz", "--published", "DNA"],
            "error: --published: expected `key=value`, got 'DNA'",
        ),
        (
            [
                *["ingest", "images", "--store", "s", "--sites", "t", "--quarantine", "q"],
                *["--platemap", "m.csv", "--platemap-column", "name=SBS_Doses"],
            ],
            "error: --platemap-column: ",
        ),
    ],
)
def test_wrong_options_are_one_line(tmp_path, arguments, message):
    run = cellpipe(*arguments)
    assert run.returncode == 1
    assert run.stderr.startswith(message)
    assert run.stderr.count("\n") == 1


def test_a_missing_file_is_one_line(tmp_path):
    run = cellpipe("embed", tmp_path / "P.crops.zarr", "--model", tmp_path, "--output", tmp_path)
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert f"{tmp_path}: not a model folder" in run.stderr
