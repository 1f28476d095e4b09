rule split:
    """Which cells train, validate and test."""
    input:
        expand(f"{OUT}/plates/{{plate}}.cells.parquet", plate=PLATES),
    output:
        f"{OUT}/split.csv",
    log:
        f"{OUT}/logs/split.log",
    benchmark:
        f"{OUT}/benchmarks/split.tsv"
    threads: 1
    params:
        name=config["split"]["name"],
        label=config["split"]["label"],
        classes=shlex.join(f"--class={name}" for name in config["split"]["classes"]),
        seed=config["split"]["seed"],
    shell:
        "cellpipe split {input:q}"
        " --output {output:q}"
        " --name {params.name} --label {params.label:q}"
        " {params.classes} --seed {params.seed} &> {log:q}"
