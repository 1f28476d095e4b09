"""What the workflows of natural images share: where experiments lie, and the demonstration."""

import hashlib
import json
import os
import shlex
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError

OUT = config["output"]
ROOT = Path(str(workflow.current_basedir)).parents[1]


def found(path):
    """An experiment's YAML, below the working directory or else with the workflows."""
    return str(path if Path(path).exists() or Path(path).is_absolute() else ROOT / path)


def images(wildcards):
    """The image folder; the demonstration's, which the Snakefile names, is drawn first."""
    return config["data"] or DRAWN


def as_it_is(path):
    """A model that is there, whatever would be needed to make it; if it is not, it is made."""
    # Snakemake looks for no rule behind such an input, and so neither runs nor deletes for it.
    return before_update(path) if Path(path).exists() else path


def layers(path):
    """An experiment's YAML, then those that it inherits from."""
    files = [found(path)]
    while base := yaml.safe_load(Path(files[-1]).read_text()).get("base"):
        base = str(Path(files[-1]).parent / base)
        if base in files:
            raise WorkflowError(f"{path}: inherits from itself by way of {files}")
        files.append(base)
    return files


def run_folder(name, files, *settings):
    """A folder of checkpoints for each training that the configuration can describe.

    A killed training is found again, one of another experiment starts anew. Should the images
    change under the same configuration, training refuses the folder and says so.
    """
    what = json.dumps([config["data"], *settings], sort_keys=True).encode()
    what += b"".join(Path(file).read_bytes() for file in files)
    return f"{OUT}/checkpoints/{name}-{hashlib.sha256(what).hexdigest()[:12]}"


def set_options(values, option="--set"):
    """`--set key=value` for every key of an experiment that is changed, or another such option."""
    words = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    return shlex.join(word for pair in words for word in (option, pair))


def optional(option, value):
    """`--option value`, or nothing where there is no value."""
    return shlex.join([f"--{option}", str(value)]) if value is not None else ""
