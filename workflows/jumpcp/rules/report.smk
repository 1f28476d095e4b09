rule report:
    """The figures with captions, provenance and run times as one self-contained HTML page."""
    input:
        FIGURES,
    output:
        f"{OUT}/report.html",
    log:
        f"{OUT}/logs/report.log",
    benchmark:
        f"{OUT}/benchmarks/report.tsv"
    threads: 1
    params:
        # Snakemake writes reports of finished runs only, so this asks it for the figures' run.
        configfiles=lambda wildcards: workflow.configfiles,
    shell:
        "snakemake --configfile {params.configfiles:q}"
        " --report {output:q} -- {input:q} &> {log:q}"
