"""What the rules ask of the configuration."""


def changed(step):
    """Keys of a step's experiment to change; the same of both probes, which are compared."""
    return config["set"][step.removesuffix("_random")]


def settings(*steps):
    """What the configuration says of these steps beside their files."""
    return [{step: changed(step)} for step in steps if changed(step)]


def initial(wildcards):
    """The weights that a classifier starts from; a random probe has none."""
    if wildcards.classifier == "probe_random":
        return []
    return as_it_is(config["initial"]) if config["initial"] else f"{OUT}/pretrained"


def classifier_checkpoints(wildcards):
    """Folder of the checkpoints of a classifier, another one where it starts from other weights."""
    step, files = wildcards.classifier, layers(config[wildcards.classifier])
    if config["initial"]:
        return run_folder(step, files, *settings(step), config["initial"])
    files += layers(config["pretrain"])
    return run_folder(step, files, *settings(step, "pretrain"))
