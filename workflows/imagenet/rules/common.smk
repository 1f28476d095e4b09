"""What the rules ask of the section `evaluate`."""

import re

EVALUATE = config["evaluate"]
# The workflow's own images are `val`, unless the configuration calls others so.
DATASETS = list(EVALUATE["data"]) or ["val"]


wildcard_constraints:
    dataset="|".join(map(re.escape, {"val", *DATASETS})),


def evaluated_images(wildcards):
    """Folder of a data set to evaluate on."""
    return EVALUATE["data"].get(wildcards.dataset) or images(wildcards)


def evaluate_options(wildcards):
    """Options of the evaluation; a folder tells of its model what a published file does not."""
    keys = ("weights", "size", "crop", "limit", "precision", "batch_size")
    words = [optional(key.replace("_", "-"), EVALUATE[key]) for key in keys]
    if EVALUATE["all_classes"]:
        words.append("--all-classes")
    if wildcards.experiment == "checkpoint":
        words.append(set_options(EVALUATE["model_options"], "--model-option"))
    return " ".join(filter(None, words))


def tables(wildcards):
    """What `eval` makes: a table for each data set."""
    return expand(f"{OUT}/evaluations/{{dataset}}.md", dataset=DATASETS)
