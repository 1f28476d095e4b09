rule ingest_plate:
    """One plate as OME-Zarr; the store outlives a killed job, so that ingest goes on."""
    input:
        plate_source,
        platemap_files,
    output:
        sites=f"{OUT}/plates/{{plate}}.sites.parquet",
        quarantine=f"{OUT}/plates/{{plate}}.quarantine.csv",
    log:
        f"{OUT}/logs/ingest_plate/{{plate}}.log",
    benchmark:
        f"{OUT}/benchmarks/ingest_plate/{{plate}}.tsv"
    threads: 4
    params:
        source=lambda wildcards: plate_config(wildcards.plate)["source"],
        store=f"{OUT}/plates/{{plate}}.zarr",
        options=ingest_options,
    shell:
        "cellpipe ingest {params.source:q} --plate {wildcards.plate:q}"
        " --store {params.store:q}"
        " --sites {output.sites:q}"
        " --quarantine {output.quarantine:q}"
        " {params.options}"
        " --jobs {threads} &> {log:q}"
