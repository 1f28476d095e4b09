rule train_model:
    """A model; its checkpoints outlive a killed job, so that training resumes."""
    input:
        experiment=experiment_files,
        # The date of a folder tells little of its images, and who trains again loses a model.
        images=ancient(images),
    output:
        directory(f"{OUT}/models/{{experiment}}"),
    log:
        f"{OUT}/logs/train/{{experiment}}.log",
    benchmark:
        f"{OUT}/benchmarks/train/{{experiment}}.tsv"
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        experiment=lambda wildcards: experiment_files(wildcards)[0],
        checkpoints=checkpoints,
        overrides=overrides,
        launcher=launcher,
    shell:
        "{params.launcher} natural-images train {params.experiment:q}"
        " --data {input.images:q}"
        " --output {output:q}"
        " --checkpoints {params.checkpoints:q}"
        " {params.overrides} &> {log:q}"
