rule evaluate:
    """Accuracy on held-out cells and wells, nearest neighbours, replicate mAP."""
    input:
        embeddings=expand(f"{OUT}/embeddings/{{plate}}.h5ad", plate=PLATES),
        wells=f"{OUT}/profiles/wells.h5ad",
        split=f"{OUT}/split.csv",
        model=f"{OUT}/model",
    output:
        metrics=f"{OUT}/metrics.json",
        predictions=f"{OUT}/predictions.parquet",
        replicability=f"{OUT}/replicability.csv",
    log:
        f"{OUT}/logs/evaluate.log",
    benchmark:
        f"{OUT}/benchmarks/evaluate.tsv"
    threads: 2
    params:
        dose=optional("dose-column", config["evaluate"]["dose_column"]),
    shell:
        "cellpipe evaluate {input.embeddings:q}"
        " --wells {input.wells:q}"
        " --split {input.split:q}"
        " --model {input.model:q}"
        " --metrics {output.metrics:q}"
        " --predictions {output.predictions:q}"
        " --replicability {output.replicability:q}"
        " {params.dose} &> {log:q}"
