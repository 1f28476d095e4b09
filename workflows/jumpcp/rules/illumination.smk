rule illumination:
    """Flat fields of one plate."""
    input:
        f"{OUT}/plates/{{plate}}.sites.parquet",
    output:
        f"{OUT}/plates/{{plate}}.illumination.npz",
    log:
        f"{OUT}/logs/illumination/{{plate}}.log",
    benchmark:
        f"{OUT}/benchmarks/illumination/{{plate}}.tsv"
    threads: 1
    params:
        camera_offset=config["illumination"]["camera_offset"],
        minimum_sites=config["illumination"]["minimum_sites"],
        published=option_list("published", config["illumination"]["published"]),
    shell:
        "cellpipe illumination {input:q}"
        " --output {output:q}"
        " --camera-offset {params.camera_offset}"
        " --minimum-sites {params.minimum_sites}"
        " {params.published} &> {log:q}"
