rule figure_umap:
    """Cells in two dimensions."""
    input:
        expand(f"{OUT}/embeddings/{{plate}}.h5ad", plate=PLATES),
    output:
        report(
            f"{OUT}/figures/umap.png",
            caption="../report/umap.rst",
            category="Embeddings",
            labels={"figure": "UMAP of cells"},
        ),
    log:
        f"{OUT}/logs/figure_umap.log",
    benchmark:
        f"{OUT}/benchmarks/figure_umap.tsv"
    threads: 1
    shell:
        "cellpipe figure umap {input:q} --output {output:q} &> {log:q}"


rule figure_montage:
    """Cells of every perturbation."""
    input:
        expand(f"{OUT}/plates/{{plate}}.crops.zarr", plate=PLATES),
    output:
        report(
            f"{OUT}/figures/montage.png",
            caption="../report/montage.rst",
            category="Cells",
            labels={"figure": "Montage"},
        ),
    log:
        f"{OUT}/logs/figure_montage.log",
    benchmark:
        f"{OUT}/benchmarks/figure_montage.tsv"
    threads: 1
    shell:
        "cellpipe figure montage {input:q} --output {output:q} &> {log:q}"


rule figure_plate:
    """One plate well by well."""
    input:
        wells=f"{OUT}/profiles/wells.h5ad",
        metrics=f"{OUT}/metrics.json",
    output:
        report(
            f"{OUT}/figures/plate/{{plate}}.png",
            caption="../report/plate.rst",
            category="Plates",
            labels={"figure": "Plate maps", "plate": "{plate}"},
        ),
    log:
        f"{OUT}/logs/figure_plate/{{plate}}.log",
    benchmark:
        f"{OUT}/benchmarks/figure_plate/{{plate}}.tsv"
    threads: 1
    shell:
        "cellpipe figure plate {input.wells:q}"
        " --plate {wildcards.plate:q} --metrics {input.metrics:q}"
        " --output {output:q} &> {log:q}"


rule figure_training:
    """Curves of the training."""
    input:
        f"{OUT}/model",
    output:
        report(
            f"{OUT}/figures/training.png",
            caption="../report/training.rst",
            category="Model",
            labels={"figure": "Training curves"},
        ),
    log:
        f"{OUT}/logs/figure_training.log",
    benchmark:
        f"{OUT}/benchmarks/figure_training.tsv"
    threads: 1
    params:
        curves=CHECKPOINTS,
    shell:
        "cellpipe figure training {params.curves:q}" " --output {output:q} &> {log:q}"


rule figure_accuracy:
    """Held-out accuracy beside the baselines."""
    input:
        f"{OUT}/metrics.json",
    output:
        report(
            f"{OUT}/figures/accuracy.png",
            caption="../report/accuracy.rst",
            category="Evaluation",
            labels={"figure": "Accuracy"},
        ),
    log:
        f"{OUT}/logs/figure_accuracy.log",
    benchmark:
        f"{OUT}/benchmarks/figure_accuracy.tsv"
    threads: 1
    shell:
        "cellpipe figure accuracy {input:q} --output {output:q} &> {log:q}"


rule figure_confusion:
    """Classes mistaken for each other."""
    input:
        f"{OUT}/metrics.json",
    output:
        report(
            f"{OUT}/figures/confusion.png",
            caption="../report/confusion.rst",
            category="Evaluation",
            labels={"figure": "Confusion"},
        ),
    log:
        f"{OUT}/logs/figure_confusion.log",
    benchmark:
        f"{OUT}/benchmarks/figure_confusion.tsv"
    threads: 1
    shell:
        "cellpipe figure confusion {input:q} --output {output:q} &> {log:q}"


rule figure_replicates:
    """Replicate mAP of every perturbation."""
    input:
        f"{OUT}/replicability.csv",
    output:
        report(
            f"{OUT}/figures/replicates.png",
            caption="../report/replicates.rst",
            category="Evaluation",
            labels={"figure": "Replicate mAP"},
        ),
    log:
        f"{OUT}/logs/figure_replicates.log",
    benchmark:
        f"{OUT}/benchmarks/figure_replicates.tsv"
    threads: 1
    shell:
        "cellpipe figure replicates {input:q} --output {output:q} &> {log:q}"


rule figure_dose:
    """Read-outs against the dose."""
    input:
        f"{OUT}/metrics.json",
    output:
        report(
            f"{OUT}/figures/dose.png",
            caption="../report/dose.rst",
            category="Evaluation",
            labels={"figure": "Dose"},
        ),
    log:
        f"{OUT}/logs/figure_dose.log",
    benchmark:
        f"{OUT}/benchmarks/figure_dose.tsv"
    threads: 1
    shell:
        "cellpipe figure dose {input:q} --output {output:q} &> {log:q}"


rule figure_throughput:
    """Time, rate and memory of every stage."""
    input:
        f"{OUT}/metrics.json",
        sites=expand(f"{OUT}/plates/{{plate}}.sites.parquet", plate=PLATES),
        cells=expand(f"{OUT}/plates/{{plate}}.cells.parquet", plate=PLATES),
    output:
        report(
            f"{OUT}/figures/throughput.png",
            caption="../report/throughput.rst",
            category="Run",
            labels={"figure": "Throughput"},
        ),
    log:
        f"{OUT}/logs/figure_throughput.log",
    benchmark:
        f"{OUT}/benchmarks/figure_throughput.tsv"
    threads: 1
    params:
        benchmarks=STAGE_BENCHMARKS,
        sites=lambda wildcards, input: option_files("sites", input.sites),
        cells=lambda wildcards, input: option_files("cells", input.cells),
    shell:
        "cellpipe figure throughput {params.benchmarks:q}"
        " {params.sites} {params.cells}"
        " --output {output:q} &> {log:q}"
