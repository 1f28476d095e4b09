import os

from snakemake.exceptions import WorkflowError

# One module a workflow; `snakemake --cores 2 jumpcp_train` runs the target `train` of jumpcp.
# What a file given with --configfile says of a workflow stands alone, it is not merged into the
# demonstration of that workflow.
WORKFLOWS = ("jumpcp", "imagenet", "mae")
unknown = sorted(set(config) - set(WORKFLOWS))
if unknown:
    raise WorkflowError(
        f"configuration: expected the keys {', '.join(WORKFLOWS)}, got also {unknown}"
    )
if "jumpcp" not in config:

    configfile: os.path.join(workflow.basedir, "config", "jumpcp.yaml")


if "imagenet" not in config:

    configfile: os.path.join(workflow.basedir, "config", "imagenet.yaml")


if "mae" not in config:

    configfile: os.path.join(workflow.basedir, "config", "mae.yaml")


module jumpcp:
    snakefile:
        "workflows/jumpcp/Snakefile"
    config:
        config["jumpcp"]


use rule * from jumpcp as jumpcp_*


module imagenet:
    snakefile:
        "workflows/imagenet/Snakefile"
    config:
        config["imagenet"]


use rule * from imagenet as imagenet_*


module mae:
    snakefile:
        "workflows/mae/Snakefile"
    config:
        config["mae"]


use rule * from mae as mae_*
