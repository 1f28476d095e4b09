"""What rules ask of a configuration that lists experiments."""

EXPERIMENTS = [experiment["name"] for experiment in config["experiments"]]

if len(set(EXPERIMENTS)) < len(EXPERIMENTS) or "checkpoint" in EXPERIMENTS:
    raise WorkflowError(
        "configuration key experiments: expected different names other than checkpoint, which is "
        f"that of evaluate.checkpoint, got {EXPERIMENTS}"
    )


wildcard_constraints:
    experiment="[^/]+",


def experiment_of(wildcards):
    """The entry of `experiments` of that name."""
    named = [e for e in config["experiments"] if e["name"] == wildcards.experiment]
    if not named:
        raise WorkflowError(
            f"configuration key experiments: expected one named {wildcards.experiment}, "
            f"got {EXPERIMENTS}"
        )
    return named[0]


def experiment_files(wildcards):
    """The experiment's YAML, then those that it inherits from."""
    return layers(experiment_of(wildcards)["config"])


def checkpoints(wildcards):
    """Folder of the checkpoints of one experiment."""
    experiment = experiment_of(wildcards)
    return run_folder(wildcards.experiment, experiment_files(wildcards), experiment)


def overrides(wildcards):
    """Keys of the experiment that the configuration changes, as options."""
    return set_options(experiment_of(wildcards)["set"])


def evaluated_model(wildcards):
    """The model to evaluate: a trained one, or the checkpoint."""
    if wildcards.experiment == "checkpoint":
        return config["evaluate"]["checkpoint"]
    return f"{OUT}/models/{wildcards.experiment}"


def evaluations(wildcards):
    """What `eval` makes."""
    names = ["checkpoint"] if config["evaluate"]["checkpoint"] else EXPERIMENTS
    return expand(f"{OUT}/evaluations/{{experiment}}/metrics.json", experiment=names)
