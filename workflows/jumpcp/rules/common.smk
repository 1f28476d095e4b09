"""What several rules ask: where files lie, and how configuration becomes options."""

import hashlib
import json
import os
import re
import shlex

from snakemake.exceptions import WorkflowError

OUT = config["output"]
PLATES = [plate["name"] for plate in config["plates"]]

if len(set(PLATES)) < len(PLATES):
    raise WorkflowError(f"configuration key plates: names must differ, got {PLATES}")

FIGURES = [
    *expand(
        f"{OUT}/figures/{{name}}.png",
        name=[
            "umap",
            "montage",
            "training",
            "accuracy",
            "confusion",
            "replicates",
            "throughput",
            *(["dose"] if config["evaluate"]["dose_column"] else []),
        ],
    ),
    *expand(f"{OUT}/figures/plate/{{plate}}.png", plate=PLATES),
]

# A folder for each training that the configuration can describe: a killed one is found again, one
# with another recipe starts anew. Should the data change under the same configuration, training
# refuses the folder and says so.
TRAINING = {
    key: value for key, value in config.items() if key not in ("embed", "evaluate")
}
CHECKPOINTS = (
    f"{OUT}/checkpoints/"
    + hashlib.sha256(json.dumps(TRAINING, sort_keys=True).encode()).hexdigest()[:12]
)

# Files that Snakemake writes when a job ends; the throughput figure comes after all of them.
STAGE_BENCHMARKS = [
    *expand(
        f"{OUT}/benchmarks/{{stage}}/{{plate}}.tsv",
        stage=["ingest_plate", "illumination", "segment", "crops", "embed_plate"],
        plate=PLATES,
    ),
    *expand(
        f"{OUT}/benchmarks/{{stage}}.tsv",
        stage=["split", "train_model", "profile", "evaluate"],
    ),
]


wildcard_constraints:
    plate="|".join(map(re.escape, PLATES)),


def plate_config(name):
    """The entry of `plates` of one plate."""
    return next(plate for plate in config["plates"] if plate["name"] == name)


def plate_source(wildcards):
    """The folder to ingest; a plate of the demonstration waits until it is drawn."""
    source = plate_config(wildcards.plate)["source"]
    simulated = config["simulate"]["output"]
    return simulated if source.startswith(f"{simulated}/") else source


def platemap_files(wildcards):
    """Platemap and metadata of a plate, unless they are drawn with the demonstration."""
    plate = plate_config(wildcards.plate)
    files = [plate[key] for key in ("platemap", "metadata") if plate.get(key)]
    return [f for f in files if not f.startswith(f"{config['simulate']['output']}/")]


def ingest_options(wildcards):
    """A plate's keys as options of `cellpipe ingest`."""
    plate = plate_config(wildcards.plate)
    single = [
        "layout",
        "pixel_size_um",
        "file_pattern",
        "image_root",
        "platemap",
        "metadata",
        "batch",
        "source_name",
    ]
    several = {
        "channels": "channel",
        "platemap_columns": "platemap-column",
        "pert_types": "pert-type",
    }
    words = []
    for key in single:
        if plate.get(key) is not None:
            words += [f"--{key.replace('_', '-')}", str(plate[key])]
    for key, option in several.items():
        words += repeated(option, plate.get(key, {}))
    return shlex.join(words)


def repeated(option, values):
    """A mapping as `--option key=value` for every key."""
    return [
        word
        for key, value in values.items()
        for word in (f"--{option}", f"{key}={value}")
    ]


def option_list(option, values):
    """`repeated`, quoted for the shell."""
    return shlex.join(repeated(option, values))


def embeddings_by_checkpoint(wildcards):
    """Targets of `embed`; without a checkpoint there is nothing to embed with."""
    if not config["embed"]["checkpoint"]:
        raise WorkflowError(
            "configuration key embed.checkpoint: the target embed needs a model folder, "
            f"for example {OUT}/model after jumpcp_train"
        )
    folder = config["embed"]["checkpoint"]
    if not os.path.exists(os.path.join(folder, "cellpipe.json")):
        raise WorkflowError(
            f"configuration key embed.checkpoint: {folder} is not a model folder, it holds no "
            "cellpipe.json"
        )
    mode = config["embed"]["mode"]
    return expand(f"{OUT}/embedded/{mode}/{{plate}}.h5ad", plate=PLATES)


def optional(option, value):
    """`--option value`, or nothing where there is no value."""
    return shlex.join([f"--{option}", str(value)]) if value is not None else ""


def option_values(option, values):
    """`option_list` with values as JSON, so that 1.0e-6 and null arrive as they are."""
    return option_list(
        option, {key: json.dumps(value) for key, value in values.items()}
    )


def option_files(option, files):
    """`--option file` for every file."""
    return shlex.join(word for file in files for word in (f"--{option}", file))
