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


def brings_up_to_date():
    """Whether models follow their experiments: where this workflow's `train` is asked for.

    It is the default target. All others take a model that exists as it is: what is asked of them is
    not worth weeks of training, nor the loss of a model.
    """
    targets = workflow.dag_settings.targets
    return not targets or not {"train", f"{NAME}_train"}.isdisjoint(targets)


def evaluated_model(wildcards):
    """The model to evaluate: a trained one, or the checkpoint."""
    if wildcards.experiment == "checkpoint":
        model = config["evaluate"]["checkpoint"]
    else:
        model = f"{OUT}/models/{wildcards.experiment}"
    return model if brings_up_to_date() else as_it_is(model)


def evaluated():
    """Names of the models that `eval` evaluates."""
    return ["checkpoint"] if config["evaluate"]["checkpoint"] else EXPERIMENTS


def evaluations(wildcards):
    """What `eval` makes."""
    return expand(
        f"{OUT}/evaluations/{{experiment}}/metrics.json", experiment=evaluated()
    )
