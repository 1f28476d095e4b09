rule segment:
    """Nuclei of one plate: label images in the plate, and the cell table."""
    input:
        sites=f"{OUT}/plates/{{plate}}.sites.parquet",
        illumination=f"{OUT}/plates/{{plate}}.illumination.npz",
    output:
        f"{OUT}/plates/{{plate}}.cells.parquet",
    log:
        f"{OUT}/logs/segment/{{plate}}.log",
    benchmark:
        f"{OUT}/benchmarks/segment/{{plate}}.tsv"
    threads: 4
    params:
        channel=config["segment"]["channel"],
        diameter=config["segment"]["nucleus_diameter"],
        unit=config["segment"]["diameter_unit"],
    shell:
        "cellpipe segment {input.sites:q}"
        " --illumination {input.illumination:q}"
        " --output {output:q}"
        " --channel {params.channel:q}"
        " --nucleus-diameter {params.diameter} --diameter-unit {params.unit}"
        " --jobs {threads} &> {log:q}"
