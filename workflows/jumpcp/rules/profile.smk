rule profile:
    """Well and perturbation profiles, standardised on the negative controls."""
    input:
        embeddings=expand(f"{OUT}/embeddings/{{plate}}.h5ad", plate=PLATES),
        sites=expand(f"{OUT}/plates/{{plate}}.sites.parquet", plate=PLATES),
    output:
        wells=f"{OUT}/profiles/wells.h5ad",
        perturbations=f"{OUT}/profiles/perturbations.h5ad",
    log:
        f"{OUT}/logs/profile.log",
    benchmark:
        f"{OUT}/benchmarks/profile.tsv"
    threads: 1
    params:
        sites=lambda wildcards, input: option_files("sites", input.sites),
    shell:
        "cellpipe profile {input.embeddings:q}"
        " {params.sites}"
        " --wells {output.wells:q}"
        " --perturbations {output.perturbations:q} &> {log:q}"
