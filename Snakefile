import os

from snakemake.exceptions import WorkflowError

# One module a workflow; `snakemake --cores 2 jumpcp_train` runs its target `train`.
# A file given with --configfile stands alone, it is not merged into the demonstration's.
unknown = sorted(set(config) - {"jumpcp"})
if unknown:
    raise WorkflowError(
        f"configuration: expected the one key jumpcp, got also {unknown}"
    )
if "jumpcp" not in config:

    configfile: os.path.join(workflow.basedir, "config", "jumpcp.yaml")


module jumpcp:
    snakefile:
        "workflows/jumpcp/Snakefile"
    config:
        config["jumpcp"]


use rule * from jumpcp as jumpcp_*
