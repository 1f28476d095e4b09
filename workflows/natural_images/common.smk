"""What the workflows of natural images share: where experiments lie, and the demonstration."""

import hashlib
import json
import os
import shlex
from pathlib import Path

OUT = config["output"]
ROOT = Path(str(workflow.current_basedir)).parents[1]


def found(path):
    """An experiment's YAML, below the working directory or else with the workflows."""
    return str(path if Path(path).exists() or Path(path).is_absolute() else ROOT / path)


def images(wildcards):
    """The image folder; the demonstration's is drawn first."""
    return config["data"] or config["digits"]


def run_folder(name, file, *settings):
    """A folder of checkpoints for each training that the configuration can describe.

    A killed training is found again, one of another experiment starts anew.
    """
    what = json.dumps([config["data"], *settings], sort_keys=True).encode()
    digest = hashlib.sha256(what + Path(file).read_bytes()).hexdigest()[:12]
    return f"{OUT}/checkpoints/{name}-{digest}"


def set_options(values):
    """`--set key=value` for every key of an experiment that is changed."""
    words = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    return shlex.join(word for pair in words for word in ("--set", pair))


def optional(option, value):
    """`--option value`, or nothing where there is no value."""
    return shlex.join([f"--{option}", str(value)]) if value is not None else ""
