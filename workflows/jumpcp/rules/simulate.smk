rule simulate:
    """The demonstration: plates with known truth."""
    output:
        directory(config["simulate"]["output"]),
    log:
        f"{OUT}/logs/simulate.log",
    benchmark:
        f"{OUT}/benchmarks/simulate.tsv"
    threads: 4
    params:
        plates=config["simulate"]["plates"],
        seed=config["simulate"]["seed"],
    shell:
        "cellpipe simulate {output:q}"
        " --plates {params.plates} --seed {params.seed}"
        " --jobs {threads} &> {log:q}"
