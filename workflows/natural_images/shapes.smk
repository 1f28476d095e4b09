rule shapes:
    """The demonstration: shapes drawn on photographs, in the formats of ADE20K and COCO."""
    output:
        ade20k=directory(f"{config['shapes']}/ade20k"),
        coco=directory(f"{config['shapes']}/coco"),
    log:
        f"{OUT}/logs/shapes.log",
    benchmark:
        f"{OUT}/benchmarks/shapes.tsv"
    threads: 1
    params:
        folder=lambda wildcards: config["shapes"],
    shell:
        "natural-images shapes {params.folder:q} &> {log:q}"
