rule evaluate:
    """Accuracy, loss, throughput, predictions and pictures of one model."""
    input:
        model=evaluated_model,
        images=images,
    output:
        metrics=f"{OUT}/evaluations/{{experiment}}/metrics.json",
        predictions=f"{OUT}/evaluations/{{experiment}}/predictions.parquet",
        reliability=report(
            f"{OUT}/evaluations/{{experiment}}/reliability.png",
            caption="../report/reliability.rst",
            category="Evaluation",
            labels={"model": "{experiment}", "figure": "reliability"},
        ),
        confused=report(
            f"{OUT}/evaluations/{{experiment}}/confused.png",
            caption="../report/confused.rst",
            category="Evaluation",
            labels={"model": "{experiment}", "figure": "confused pairs"},
        ),
    log:
        f"{OUT}/logs/evaluate/{{experiment}}.log",
    benchmark:
        f"{OUT}/benchmarks/evaluate/{{experiment}}.tsv"
    threads: 16
    params:
        output=lambda wildcards: f"{OUT}/evaluations/{wildcards.experiment}",
        weights=config["evaluate"]["weights"],
        size=optional("size", config["evaluate"]["size"]),
        limit=optional("limit", config["evaluate"]["limit"]),
    shell:
        "natural-images evaluate {input.model:q} {input.images:q}"
        " --output {params.output:q}"
        " --weights {params.weights} {params.size} {params.limit} &> {log:q}"


rule compare:
    """One table of all trained models."""
    input:
        expand(f"{OUT}/evaluations/{{experiment}}/metrics.json", experiment=EXPERIMENTS),
    output:
        markdown=f"{OUT}/comparison.md",
        csv=report(
            f"{OUT}/comparison.csv",
            caption="../report/comparison.rst",
            category="Comparison",
        ),
    log:
        f"{OUT}/logs/compare.log",
    benchmark:
        f"{OUT}/benchmarks/compare.tsv"
    threads: 1
    params:
        evaluations=lambda wildcards, input: [os.path.dirname(file) for file in input],
    shell:
        "natural-images compare {params.evaluations:q}"
        " --output {output.markdown:q} &> {log:q}"
