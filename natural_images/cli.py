"""The ``natural-images`` command: one subcommand an experiment, each a thin call.

Modules are imported inside the commands, so that ``natural-images --help`` answers at once.
"""

import errno
import logging
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from natural_images import dense_cli
from natural_images.cli_options import (
    Checkpoints,
    Data,
    ModelOptions,
    Output,
    Overrides,
    Precision,
    with_paths,
)
from natural_images.errors import NaturalImagesError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="FastVim on natural images: the published ImageNet, MAE, ADE20K and COCO experiments, and "
    "the same small on handwritten digits and drawn shapes. [bold]train[/bold] learns from "
    "scratch; [bold]pretrain[/bold] learns without labels, [bold]finetune[/bold] and "
    "[bold]probe[/bold] go on from there; [bold]evaluate[/bold] scores what came out and "
    "[bold]compare[/bold] makes one table of several. [bold]train-segmentation[/bold] and "
    "[bold]train-detection[/bold] have their own [bold]evaluate-…[/bold], and "
    "[bold]segment[/bold] and [bold]detect[/bold] take any photographs. To try it: "
    "`natural-images digits data/digits`, then `natural-images train config/imagenet/digits.yaml "
    "--output digits --checkpoints digits_run`.",
)

Config = Annotated[
    Path, typer.Argument(help="The experiment (.yaml); config/imagenet and config/mae have some.")
]
Initial = Annotated[
    Path | None,
    typer.Option(help="Folder of `pretrain`, or a published checkpoint, instead of the YAML's."),
]


class Part(StrEnum):
    """Splits of a data set."""

    train = "train"
    val = "val"


class Weights(StrEnum):
    """Which weights of a model."""

    plain = "plain"
    ema = "ema"
    all = "all"


@app.command()
def digits(
    output: Annotated[Path, typer.Argument(help="Folder to create.")],
    size: Annotated[int, typer.Option(help="Side of the images in px.")] = 32,
) -> None:
    """Write scikit-learn's 1,797 handwritten digits as a folder of images, to try things on."""
    from natural_images.digits import write_digits

    write_digits(output, size=size)


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help="Images, in any layout that `train` reads.")],
    output: Annotated[Path, typer.Option(help="Folder for train.csv and val.csv.")],
    split: Annotated[
        list[Part] | None, typer.Option(help="Check only this split; repeat for both.")
    ] = None,
    classes: Annotated[int | None, typer.Option(help="How many classes there must be.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that decode.")] = 1,
) -> None:
    """Decode every image once, and list those that cannot be.

    `--set data.quarantine=<output>` leaves them out of training and validation.
    """
    from natural_images.classification.images import open_images
    from natural_images.classification.quarantine import check_images

    for part in split or list(Part):
        source = open_images(data, split=part.value, classes=classes)
        good = check_images(source, output / f"{part.value}.csv", workers)
        logging.info("%s: %d of %d images can be decoded", part.value, len(good), len(source))


@app.command()
def train(
    config: Config,
    output: Output,
    checkpoints: Checkpoints,
    data: Data = None,
    overrides: Overrides = None,
) -> None:
    """Train a classifier from scratch.

    Run it under `accelerate launch` or `torchrun --no-python` for several GPUs: the batch and all
    else that is learned stay the same.
    """
    from natural_images.experiment import load_experiment

    experiment = load_experiment(config, with_paths(overrides, data=data))
    from natural_images.classification import train as stage

    stage.train(experiment, output, checkpoints)


@app.command()
def pretrain(
    config: Config,
    output: Output,
    checkpoints: Checkpoints,
    data: Data = None,
    overrides: Overrides = None,
) -> None:
    """Pre-train a masked autoencoder, without labels.

    Pictures of what it fills in appear in <checkpoints>/pictures.
    """
    from natural_images.experiment import load_experiment

    experiment = load_experiment(config, with_paths(overrides, data=data))
    from natural_images.masked import pretrain as stage

    stage.pretrain(experiment, output, checkpoints)


@app.command()
def finetune(
    config: Config,
    output: Output,
    checkpoints: Checkpoints,
    initial: Initial = None,
    data: Data = None,
    overrides: Overrides = None,
) -> None:
    """Train a pre-trained encoder, all of it, to classify."""
    from natural_images.experiment import load_experiment

    experiment = load_experiment(config, with_paths(overrides, data=data, initial=initial))
    from natural_images.masked import finetune as stage

    stage.finetune(experiment, output, checkpoints)


@app.command()
def probe(
    config: Config,
    output: Output,
    checkpoints: Checkpoints,
    initial: Initial = None,
    data: Data = None,
    overrides: Overrides = None,
) -> None:
    """Train a linear classifier on the features of a pre-trained encoder, which stays as it is.

    `--initial random` probes weights that were never trained.
    """
    from natural_images.experiment import load_experiment

    experiment = load_experiment(config, with_paths(overrides, data=data, initial=initial))
    from natural_images.masked import probe as stage

    stage.probe(experiment, output, checkpoints)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A model folder, or a published checkpoint file.")],
    data: Annotated[
        Path, typer.Argument(help="Images; ImageNet-V2, -A and -R folders too, as they come.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for metrics, predictions and pictures.")],
    split: Annotated[Part, typer.Option(help="Which images of the folder.")] = Part.val,
    weights: Annotated[
        Weights,
        typer.Option(
            help="The weights after the last step, their average, or all that the model has, each "
            "into a folder of its name."
        ),
    ] = Weights.plain,
    size: Annotated[int | None, typer.Option(help="Image side in px, if not as trained.")] = None,
    crop: Annotated[
        float | None,
        typer.Option(
            help="Part of the shorter side to see, if not as trained, or for a published file as "
            "published: 0.875 up to 224 px, all beyond."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take only so many images, for a quick look.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 64,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode; 0: none.")] = 0,
    precision: Annotated[Precision, typer.Option(help="Of matrix products.")] = Precision.float32,
    all_classes: Annotated[
        bool,
        typer.Option(
            "--all-classes", help="Choose among all classes, not only those the images have."
        ),
    ] = False,
    model_options: ModelOptions = None,
) -> None:
    """Score a classifier: top-1, top-5, loss, calibration, speed, and what it confuses."""
    from natural_images.classification import evaluate as stage
    from natural_images.classification.kept_weights import kept_weights
    from natural_images.config_file import parse_options

    if weights is Weights.all:
        kinds = kept_weights(model)
    else:
        kinds = ["ema" if weights is Weights.ema else "plain"]
    for kind in kinds:
        stage.evaluate(
            model,
            data,
            output=output / kind if weights is Weights.all else output,
            split=split.value,
            size=size,
            crop=crop,
            weights=kind,
            precision=precision.value,
            batch_size=batch_size,
            limit=limit,
            restrict=not all_classes,
            workers=workers,
            model_options=parse_options(model_options or (), "--model-option"),
        )


@app.command()
def compare(
    evaluations: Annotated[list[Path], typer.Argument(help="Folders of `evaluate`.")],
    output: Annotated[Path, typer.Option(help="Table to write (.md); a .csv goes beside it.")],
    names: Annotated[
        list[str] | None,
        typer.Option("--name", help="What to call each, if not as its folder; repeat in order."),
    ] = None,
) -> None:
    """Put evaluations on the same images into one table, the best first."""
    from natural_images.classification import compare as stage

    stage.compare(evaluations, output=output, names=names)
    typer.echo(output.read_text(), nl=False)


app.add_typer(dense_cli.app)


def main() -> None:
    """Run the command; what goes wrong by the user's files or options is one line."""
    # Of the processes of a distributed run one speaks; the others only warn.
    level = logging.INFO if int(os.environ.get("RANK", "0")) == 0 else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s")
    try:
        app()
    except NaturalImagesError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.exit(f"error: no space left on the disk while writing {error.filename or 'output'}")
