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
        snakefile=lambda wildcards: workflow.main_snakefile,
        configfiles=lambda wildcards: workflow.configfiles,
    shell:
        "snakemake --snakefile {params.snakefile:q}"
        " --configfile {params.configfiles:q}"
        " --report {output:q} -- {input:q} &> {log:q}"
