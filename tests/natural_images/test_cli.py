"""The command as a user meets it: help, one-line errors, options that are passed on."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from natural_images.cli import app
from natural_images.cli_options import with_paths
from natural_images.experiment import load_experiment

COMMANDS = (
    *("digits", "check", "train", "pretrain", "finetune", "probe", "evaluate", "compare"),
    *("shapes", "train-segmentation", "evaluate-segmentation", "segment"),
    *("train-detection", "evaluate-detection", "detect"),
)
DIGITS = Path(__file__).parents[2] / "config" / "imagenet" / "digits.yaml"
RUN = ("--output", "o", "--checkpoints", "c")


def natural_images(*arguments):
    code = "from natural_images.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_names_every_command_and_imports_no_torch():
    code = "import sys, natural_images.cli as cli; assert 'torch' not in sys.modules; cli.main()"
    run = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    for command in COMMANDS:
        assert f" {command} " in run.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere.yaml", *RUN], "error: nowhere.yaml: no such configuration"),
        (
            ["train", "config/mae/digits_probe.yaml", *RUN],
            "error: config/mae/digits_probe.yaml: expected task supervised, got probe. "
            "Run it with `natural-images probe`",
        ),
        (
            ["train", "config/imagenet/digits.yaml", *RUN, "--set", "recipe.epoch=3"],
            "error: --set: unknown key 'recipe.epoch'. Did you mean epochs",
        ),
        (
            ["train", "config/imagenet/digits.yaml", *RUN, "--data", "nowhere"],
            "error: nowhere: expected a folder of images",
        ),
        (
            ["evaluate", "m", "d", "--output", "o", "--model-option", "scaling_factor"],
            "error: --model-option: expected `key=value` with a value in JSON",
        ),
        (["compare", "nowhere", "--output", "t.md"], "error: nowhere: expected a folder of"),
        (["shapes", "s", "--size", "8"], "error: shapes: expected size to be at least 64, got 8"),
        (["train-segmentation", "nowhere.yaml", *RUN], "error: nowhere.yaml: no such config"),
        (
            ["train-segmentation", "config/ade20k/shapes.yaml", *RUN, "--set", "recipe.step=3"],
            "error: --set: unknown key 'recipe.step'. Did you mean steps",
        ),
        (["train-detection", "nowhere.yaml", *RUN], "error: nowhere.yaml: no such config"),
        (
            ["train-detection", "config/coco/shapes.yaml", *RUN, "--set", "augment.sise=3"],
            "error: --set: unknown key 'augment.sise'. Did you mean size",
        ),
    ],
)
def test_wrong_options_are_one_line(arguments, message):
    run = natural_images(*arguments)
    assert run.returncode == 1
    assert run.stderr.startswith(message)
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [(), *((command,) for command in COMMANDS)])
def test_help_by_its_short_name(command):
    run = CliRunner().invoke(app, [*command, "-h"])
    assert run.exit_code == 0, run.output
    assert "--help" in run.output


def test_own_options_win_over_set():
    assert with_paths(["data.path=a"], data="b") == ["data.path=a", 'data.path="b"']
    assert with_paths(None, data=None, initial="random") == ['initial="random"']


@pytest.mark.parametrize("path", ["2012", "a: b", "[x", "null", "ü #1", r"C:\new"])
def test_paths_arrive_as_they_are(path):
    overrides = with_paths(None, data=Path(path))
    assert load_experiment(DIGITS, overrides).data.path == Path(path)
