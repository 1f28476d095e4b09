"""``cellpipe figure``: one subcommand a figure of the report."""

from pathlib import Path
from typing import Annotated

import typer

figures = typer.Typer(no_args_is_help=True, help="Draw one figure of the report (.png or .svg).")
Picture = Annotated[Path, typer.Option("--output", help="Figure to write.")]
Metrics = Annotated[Path, typer.Argument(help="Metrics, from `evaluate`.")]
Embeddings = Annotated[list[Path], typer.Argument(help="Embeddings of all plates (.h5ad).")]


@figures.command("umap")
def figure_umap(embeddings: Embeddings, output: Picture) -> None:
    """Cells in two dimensions, by perturbation and by plate."""
    from cellpipe.figures import draw_umap

    draw_umap(embeddings, output=output)


@figures.command("plate")
def figure_plate(
    wells: Annotated[Path, typer.Argument(help="Well profiles, from `profile`.")],
    plate: Annotated[str, typer.Option(help="Name of the plate.")],
    output: Picture,
    metrics: Annotated[Path | None, typer.Option(help="Metrics, from `evaluate`.")] = None,
) -> None:
    """One plate well by well: cell count, intensities, replicate precision."""
    from cellpipe.figures import draw_plate_map

    draw_plate_map(wells, plate=plate, output=output, metrics=metrics)


@figures.command("training")
def figure_training(
    curves: Annotated[Path, typer.Argument(help="Folder with train.csv and validation.csv.")],
    output: Picture,
) -> None:
    """Loss, accuracy and learning rate over the steps."""
    from cellpipe.figures import draw_training

    draw_training(curves, output=output)


@figures.command("confusion")
def figure_confusion(metrics: Metrics, output: Picture) -> None:
    """Which classes the trained head takes for which, on the held-out part."""
    from cellpipe.figures import draw_confusion

    draw_confusion(metrics, output=output)


@figures.command("accuracy")
def figure_accuracy(metrics: Metrics, output: Picture) -> None:
    """Held-out accuracy of the model beside the baselines."""
    from cellpipe.figures import draw_accuracy

    draw_accuracy(metrics, output=output)


@figures.command("replicates")
def figure_replicates(
    replicability: Annotated[Path, typer.Argument(help="mAP a perturbation, from `evaluate`.")],
    output: Picture,
) -> None:
    """Replicate mAP of every perturbation and its significance."""
    from cellpipe.figures import draw_replicates

    draw_replicates(replicability, output=output)


@figures.command("dose")
def figure_dose(metrics: Metrics, output: Picture) -> None:
    """Read-outs of the embedding against the dose."""
    from cellpipe.figures import draw_dose

    draw_dose(metrics, output=output)


@figures.command("montage")
def figure_montage(
    crops: Annotated[list[Path], typer.Argument(help="Crop stores of plates.")], output: Picture
) -> None:
    """Cells of every perturbation, in colour and channel by channel."""
    from cellpipe.figures import draw_montage

    draw_montage(crops, output=output)


@figures.command("throughput")
def figure_throughput(
    benchmarks: Annotated[list[Path], typer.Argument(help="Snakemake's benchmark files.")],
    sites: Annotated[list[Path], typer.Option(help="Site tables; repeat.")],
    cells: Annotated[list[Path], typer.Option(help="Cell tables; repeat.")],
    output: Picture,
) -> None:
    """Time, rate and memory of every stage."""
    from cellpipe.figures import draw_throughput

    draw_throughput(benchmarks, sites=sites, cells=cells, output=output)
