rule embed_plate:
    """Embeddings of the cells of one plate by the model that was trained on it."""
    input:
        crops=f"{OUT}/plates/{{plate}}.crops.zarr",
        model=f"{OUT}/model",
    output:
        f"{OUT}/embeddings/{{plate}}.h5ad",
    log:
        f"{OUT}/logs/embed_plate/{{plate}}.log",
    benchmark:
        f"{OUT}/benchmarks/embed_plate/{{plate}}.tsv"
    threads: 4
    params:
        folder=lambda wildcards, output: os.path.dirname(output[0]),
    shell:
        "cellpipe embed {input.crops:q}"
        " --model {input.model:q}"
        " --output {params.folder:q} --overwrite &> {log:q}"


rule embed_cells_by_checkpoint:
    """Embeddings of the cells of one plate by a given model."""
    input:
        crops=f"{OUT}/plates/{{plate}}.crops.zarr",
    output:
        f"{OUT}/embedded/cells/{{plate}}.h5ad",
    log:
        f"{OUT}/logs/embed_cells_by_checkpoint/{{plate}}.log",
    benchmark:
        f"{OUT}/benchmarks/embed_cells_by_checkpoint/{{plate}}.tsv"
    threads: 4
    params:
        model=config["embed"]["checkpoint"],
        folder=lambda wildcards, output: os.path.dirname(output[0]),
    shell:
        "cellpipe embed {input.crops:q}"
        " --model {params.model:q}"
        " --output {params.folder:q} --overwrite &> {log:q}"


rule embed_fields_by_checkpoint:
    """Embeddings of the whole fields of one plate by a given model."""
    input:
        sites=f"{OUT}/plates/{{plate}}.sites.parquet",
        illumination=f"{OUT}/plates/{{plate}}.illumination.npz",
    output:
        f"{OUT}/embedded/fields/{{plate}}.h5ad",
    log:
        f"{OUT}/logs/embed_fields_by_checkpoint/{{plate}}.log",
    benchmark:
        f"{OUT}/benchmarks/embed_fields_by_checkpoint/{{plate}}.tsv"
    threads: 4
    params:
        model=config["embed"]["checkpoint"],
        folder=lambda wildcards, output: os.path.dirname(output[0]),
    shell:
        "cellpipe embed {input.sites:q} --mode fields"
        " --illumination {input.illumination:q}"
        " --model {params.model:q}"
        " --output {params.folder:q} --overwrite &> {log:q}"
