rule train_model:
    """A model; its checkpoints outlive a killed job, so that training resumes."""
    input:
        experiment=experiment_files,
        images=images,
    output:
        directory(f"{OUT}/models/{{experiment}}"),
    log:
        f"{OUT}/logs/train/{{experiment}}.log",
    benchmark:
        f"{OUT}/benchmarks/train/{{experiment}}.tsv"
    threads: 16
    params:
        experiment=lambda wildcards: experiment_files(wildcards)[0],
        checkpoints=checkpoints,
        overrides=overrides,
    shell:
        "natural-images train-segmentation {params.experiment:q}"
        " --data {input.images:q}"
        " --output {output:q}"
        " --checkpoints {params.checkpoints:q}"
        " {params.overrides} &> {log:q}"
