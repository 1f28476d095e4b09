rule crops:
    """Crops of all cells of one plate."""
    input:
        cells=f"{OUT}/plates/{{plate}}.cells.parquet",
        sites=f"{OUT}/plates/{{plate}}.sites.parquet",
        illumination=f"{OUT}/plates/{{plate}}.illumination.npz",
    output:
        directory(f"{OUT}/plates/{{plate}}.crops.zarr"),
    log:
        f"{OUT}/logs/crops/{{plate}}.log",
    benchmark:
        f"{OUT}/benchmarks/crops/{{plate}}.tsv"
    threads: 4
    params:
        size_px=config["crops"]["size_px"],
    shell:
        "cellpipe crops {input.cells:q}"
        " --sites {input.sites:q}"
        " --illumination {input.illumination:q}"
        " --output {output:q}"
        " --size-px {params.size_px}"
        " --jobs {threads} &> {log:q}"
