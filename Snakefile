import os

from snakemake.exceptions import WorkflowError

# One module a workflow; `snakemake --cores 2 jumpcp_train` runs the target `train` of jumpcp.
# What a file given with --configfile says of a workflow stands alone, it is not merged into the
# demonstration of that workflow.
WORKFLOWS = ("jumpcp", "imagenet", "mae", "ade20k", "coco")
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


if "ade20k" not in config:

    configfile: os.path.join(workflow.basedir, "config", "ade20k.yaml")


if "coco" not in config:

    configfile: os.path.join(workflow.basedir, "config", "coco.yaml")


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


module ade20k:
    snakefile:
        "workflows/ade20k/Snakefile"
    config:
        config["ade20k"]


use rule * from ade20k as ade20k_*


module coco:
    snakefile:
        "workflows/coco/Snakefile"
    config:
        config["coco"]


use rule * from coco as coco_*
