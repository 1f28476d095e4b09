wildcard_constraints:
    classifier="finetune|probe|probe_random",


rule pretrain_model:
    """The encoder; its checkpoints outlive a killed job, so that training resumes."""
    input:
        experiment=layers(config["pretrain"]),
        # The date of a folder tells little of its images, and who trains again loses a model.
        images=ancient(images),
    output:
        directory(f"{OUT}/pretrained"),
    log:
        f"{OUT}/logs/pretrain_model.log",
    benchmark:
        f"{OUT}/benchmarks/pretrain_model.tsv"
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        experiment=lambda wildcards: found(config["pretrain"]),
        checkpoints=run_folder(
            "pretrain", layers(config["pretrain"]), *settings("pretrain")
        ),
        overrides=set_options(changed("pretrain")),
        launcher=launcher,
    shell:
        "{params.launcher} natural-images pretrain {params.experiment:q}"
        " --data {input.images:q}"
        " --output {output:q}"
        " --checkpoints {params.checkpoints:q}"
        " {params.overrides} &> {log:q}"


rule train_classifier:
    """A classifier on the encoder: fine-tuned, or a linear probe of it."""
    input:
        experiment=lambda wildcards: layers(config[wildcards.classifier]),
        initial=initial,
        # The date of a folder tells little of its images, and who trains again loses a model.
        images=ancient(images),
    output:
        directory(f"{OUT}/models/{{classifier}}"),
    log:
        f"{OUT}/logs/train/{{classifier}}.log",
    benchmark:
        f"{OUT}/benchmarks/train/{{classifier}}.tsv"
    threads: THREADS
    resources:
        gpu=GPUS,
    params:
        experiment=lambda wildcards: found(config[wildcards.classifier]),
        command=lambda wildcards: wildcards.classifier.removesuffix("_random"),
        checkpoints=classifier_checkpoints,
        initial=lambda wildcards, input: input.initial or "random",
        overrides=lambda wildcards: set_options(changed(wildcards.classifier)),
        launcher=launcher,
    shell:
        "{params.launcher} natural-images {params.command} {params.experiment:q}"
        " --initial {params.initial:q}"
        " --data {input.images:q}"
        " --output {output:q}"
        " --checkpoints {params.checkpoints:q}"
        " {params.overrides} &> {log:q}"
