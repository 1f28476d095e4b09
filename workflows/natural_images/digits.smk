rule digits:
    """The demonstration: 1,797 handwritten digits as a folder of images."""
    output:
        directory(config["digits"]),
    log:
        f"{OUT}/logs/digits.log",
    benchmark:
        f"{OUT}/benchmarks/digits.tsv"
    threads: 1
    shell:
        "natural-images digits {output:q} &> {log:q}"
