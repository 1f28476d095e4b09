"""The GPUs of a training: how many it takes, and how it is started on them.

A job asks for its GPUs as the resource `gpu`. Jobs do not choose among the cards of a machine, so
profiles/default lets one job at a time have them; processors alone (`gpus: 0`) know no such limit.
"""

GPUS = config["gpus"]

# What the files of config/ are made for: 14 processes that read and the one that trains.
THREADS = 16 * max(1, GPUS)


def launcher(wildcards, resources):
    """What starts a training on several GPUs, one process on each.

    Snakemake holds a result for outdated where a parameter differs, but not one that takes
    `resources`: on how many GPUs a model was trained is no reason to train it again.
    """
    if GPUS < 2:
        return ""
    return f"torchrun --standalone --no-python --nproc-per-node {GPUS}"
