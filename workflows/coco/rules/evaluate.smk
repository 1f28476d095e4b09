rule evaluate:
    """Average precision of boxes and masks, each class, and pictures of one model."""
    input:
        model=evaluated_model,
        images=images,
    output:
        metrics=f"{OUT}/evaluations/{{experiment}}/metrics.json",
        detections=f"{OUT}/evaluations/{{experiment}}/detections.json",
        classes=report(
            f"{OUT}/evaluations/{{experiment}}/per_class.csv",
            caption="../report/classes.rst",
            category="Evaluation",
            labels={"model": "{experiment}", "figure": "classes"},
        ),
        pictures=report(
            directory(f"{OUT}/evaluations/{{experiment}}/pictures"),
            patterns=["{image}.png"],
            caption="../report/pictures.rst",
            category="Evaluation",
            labels={"model": "{experiment}", "figure": "{image}"},
        ),
    log:
        f"{OUT}/logs/evaluate/{{experiment}}.log",
    benchmark:
        f"{OUT}/benchmarks/evaluate/{{experiment}}.tsv"
    threads: 16
    params:
        output=lambda wildcards: f"{OUT}/evaluations/{wildcards.experiment}",
        backbone=optional("backbone", config["evaluate"]["backbone"]),
        limit=optional("limit", config["evaluate"]["limit"]),
    shell:
        "natural-images evaluate-detection {input.model:q} {input.images:q}"
        " --output {params.output:q} --workers {threads} {params.backbone} {params.limit} &> {log:q}"
