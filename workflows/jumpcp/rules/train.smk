rule train_model:
    """The model; its checkpoints outlive a killed job, so that training resumes."""
    input:
        crops=expand(f"{OUT}/plates/{{plate}}.crops.zarr", plate=PLATES),
        split=f"{OUT}/split.csv",
    output:
        directory(f"{OUT}/model"),
    log:
        f"{OUT}/logs/train_model.log",
    benchmark:
        f"{OUT}/benchmarks/train_model.tsv"
    threads: 16
    params:
        checkpoints=CHECKPOINTS,
        architecture=config["train"]["architecture"],
        scale=config["train"]["scale"],
        model=option_values("model", config["train"]["model"]),
        recipe=option_values("recipe", config["train"]["recipe"]),
        augment=option_values("augment", config["train"]["augment"]),
    shell:
        "cellpipe train {input.crops:q}"
        " --split {input.split:q}"
        " --output {output:q}"
        " --checkpoints {params.checkpoints:q}"
        " --architecture {params.architecture:q} --scale {params.scale}"
        " {params.model} {params.recipe} {params.augment} &> {log:q}"
