rule evaluate:
    """Accuracy, loss, throughput, predictions and pictures of one model on one data set."""
    input:
        model=evaluated_model,
        images=evaluated_images,
    output:
        # a folder for each kind of weights, and which a model has is known when it is trained
        report(
            directory(f"{OUT}/evaluations/{{experiment}}/{{dataset}}"),
            patterns=["{weights}/{figure}.png"],
            caption="../report/evaluation.rst",
            category="Evaluation",
            subcategory="{dataset}",
            labels={
                "model": "{experiment}",
                "weights": "{weights}",
                "figure": "{figure}",
            },
        ),
    log:
        f"{OUT}/logs/evaluate/{{experiment}}/{{dataset}}.log",
    benchmark:
        f"{OUT}/benchmarks/evaluate/{{experiment}}/{{dataset}}.tsv"
    threads: 16
    resources:
        gpu=min(GPUS, 1),
    params:
        output=lambda wildcards, output: (
            output[0]
            if EVALUATE["weights"] == "all"
            else f"{output[0]}/{EVALUATE['weights']}"
        ),
        options=evaluate_options,
    shell:
        "natural-images evaluate {input.model:q} {input.images:q}"
        " --output {params.output:q} --workers {threads} {params.options} &> {log:q}"


rule compare:
    """One table of all trained models."""
    input:
        expand(f"{OUT}/evaluations/{{experiment}}/val", experiment=EXPERIMENTS),
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
        names=lambda wildcards, input: " ".join(
            optional("name", Path(folder).parent.name) for folder in input
        ),
    shell:
        "natural-images compare {input:q} {params.names}"
        " --output {output.markdown:q} &> {log:q}"


use rule compare as tabulate with:
    input:
        lambda wildcards: expand(
            f"{OUT}/evaluations/{{experiment}}/{wildcards.dataset}",
            experiment=evaluated(),
        ),
    output:
        markdown=f"{OUT}/evaluations/{{dataset}}.md",
        csv=report(
            f"{OUT}/evaluations/{{dataset}}.csv",
            caption="../report/comparison.rst",
            category="Evaluation",
            subcategory="{dataset}",
        ),
    log:
        f"{OUT}/logs/tabulate/{{dataset}}.log",
    benchmark:
        f"{OUT}/benchmarks/tabulate/{{dataset}}.tsv"
