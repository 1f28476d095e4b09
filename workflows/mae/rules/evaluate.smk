rule evaluate:
    """Accuracy, loss, throughput, predictions and pictures of one classifier."""
    input:
        model=f"{OUT}/models/{{classifier}}",
        images=images,
    output:
        metrics=f"{OUT}/evaluations/{{classifier}}/metrics.json",
        reliability=report(
            f"{OUT}/evaluations/{{classifier}}/reliability.png",
            caption="../../imagenet/report/reliability.rst",
            category="Evaluation",
            labels={"model": "{classifier}", "figure": "reliability"},
        ),
        confused=report(
            f"{OUT}/evaluations/{{classifier}}/confused.png",
            caption="../../imagenet/report/confused.rst",
            category="Evaluation",
            labels={"model": "{classifier}", "figure": "confused pairs"},
        ),
    log:
        f"{OUT}/logs/evaluate/{{classifier}}.log",
    benchmark:
        f"{OUT}/benchmarks/evaluate/{{classifier}}.tsv"
    threads: 16
    resources:
        gpu=min(GPUS, 1),
    params:
        output=lambda wildcards: f"{OUT}/evaluations/{wildcards.classifier}",
    shell:
        "natural-images evaluate {input.model:q} {input.images:q}"
        " --output {params.output:q} --workers {threads} &> {log:q}"


rule compare:
    """The probes side by side."""
    input:
        expand(
            f"{OUT}/evaluations/{{classifier}}/metrics.json",
            classifier=[
                "probe",
                *(["probe_random"] if config["probe_random"] else []),
            ],
        ),
    output:
        f"{OUT}/comparison.md",
    log:
        f"{OUT}/logs/compare.log",
    benchmark:
        f"{OUT}/benchmarks/compare.tsv"
    threads: 1
    params:
        evaluations=lambda wildcards, input: [os.path.dirname(file) for file in input],
    shell:
        "natural-images compare {params.evaluations:q}"
        " --output {output:q} &> {log:q}"
