wildcard_constraints:
    classifier="finetune|probe|probe_random",


rule pretrain_model:
    """The encoder; its checkpoints outlive a killed job, so that training resumes."""
    input:
        experiment=layers(config["pretrain"]),
        images=images,
    output:
        directory(f"{OUT}/pretrained"),
    log:
        f"{OUT}/logs/pretrain_model.log",
    benchmark:
        f"{OUT}/benchmarks/pretrain_model.tsv"
    threads: 16
    params:
        experiment=lambda wildcards: found(config["pretrain"]),
        checkpoints=run_folder("pretrain", layers(config["pretrain"])),
    shell:
        "natural-images pretrain {params.experiment:q}"
        " --data {input.images:q}"
        " --output {output:q}"
        " --checkpoints {params.checkpoints:q} &> {log:q}"


rule train_classifier:
    """A classifier on the encoder: fine-tuned, or a linear probe of it."""
    input:
        experiment=lambda wildcards: layers(config[wildcards.classifier]),
        initial=lambda wildcards: (
            [] if wildcards.classifier == "probe_random" else f"{OUT}/pretrained"
        ),
        images=images,
    output:
        directory(f"{OUT}/models/{{classifier}}"),
    log:
        f"{OUT}/logs/train/{{classifier}}.log",
    benchmark:
        f"{OUT}/benchmarks/train/{{classifier}}.tsv"
    threads: 16
    params:
        experiment=lambda wildcards: found(config[wildcards.classifier]),
        command=lambda wildcards: wildcards.classifier.removesuffix("_random"),
        checkpoints=lambda wildcards: run_folder(
            wildcards.classifier,
            layers(config[wildcards.classifier]) + layers(config["pretrain"]),
        ),
        initial=lambda wildcards, input: input.initial or "random",
    shell:
        "natural-images {params.command} {params.experiment:q}"
        " --initial {params.initial:q}"
        " --data {input.images:q}"
        " --output {output:q}"
        " --checkpoints {params.checkpoints:q} &> {log:q}"
