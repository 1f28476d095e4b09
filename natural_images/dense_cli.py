"""Commands of ``natural-images`` for segmentation and detection, each a thin call."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from natural_images.cli_options import (
    Checkpoints,
    Data,
    ModelOptions,
    Output,
    Overrides,
    Precision,
    with_paths,
)

app = typer.Typer()

Initial = Annotated[
    Path | None,
    typer.Option(
        help="Weights that the backbone starts from, instead of the YAML's: a published "
        "checkpoint, or a model folder."
    ),
]
Model = Annotated[Path, typer.Argument(help="A model folder, or a published checkpoint file.")]
Images = Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Take only so many images, for a quick look.")
]
Workers = Annotated[int, typer.Option(min=1, help="Threads that decode.")]
PrecisionOption = Annotated[Precision, typer.Option(help="Of matrix products.")]
Backbone = Annotated[
    str | None,
    typer.Option(
        help="Backbone of a published checkpoint file that does not tell: vim_small_patch16_dense "
        "for a Vim's."
    ),
]


class Mode(StrEnum):
    """How an image is seen."""

    slide = "slide"
    whole = "whole"


class Split(StrEnum):
    """Splits of ADE20K."""

    training = "training"
    validation = "validation"


class Part(StrEnum):
    """Splits of COCO."""

    train = "train"
    val = "val"


ModeOption = Annotated[
    Mode | None,
    typer.Option(help="Windows that overlap, or the image at once, if not as trained."),
]
Flip = Annotated[
    bool | None, typer.Option("--flip/--no-flip", help="Average with the mirrored image.")
]
Ratio = Annotated[
    list[float] | None,
    typer.Option("--ratio", help="Average over this enlargement; repeat. The paper: 1."),
]
Crop = Annotated[int | None, typer.Option(min=1, help="Side of a window in px.")]
Stride = Annotated[int | None, typer.Option(min=1, help="From window to window in px.")]


@app.command()
def shapes(
    output: Annotated[Path, typer.Argument(help="Folder to create.")],
    train: Annotated[int, typer.Option(min=1, help="Training images.")] = 1000,
    val: Annotated[int, typer.Option(min=1, help="Validation images.")] = 200,
    size: Annotated[int, typer.Option(help="Side of the images in px.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Draws other images.")] = 0,
) -> None:
    """Draw shapes on photographs, in the formats of ADE20K and COCO, to try things on."""
    from natural_images.shapes import write_shapes

    write_shapes(output, train=train, val=val, size=size, seed=seed)


@app.command()
def train_segmentation(
    config: Annotated[Path, typer.Argument(help="The experiment; config/ade20k has some.")],
    output: Output,
    checkpoints: Checkpoints,
    initial: Initial = None,
    data: Data = None,
    overrides: Overrides = None,
) -> None:
    """Train a segmenter (UPerNet) on images in ADE20K's layout.

    Run it under `accelerate launch` or `torchrun --no-python` for several GPUs: the batch and all
    else that is learned stay the same.
    """
    from natural_images.segmentation import train as stage
    from natural_images.segmentation.experiment import load_experiment

    experiment = load_experiment(config, with_paths(overrides, data=data, initial=initial))
    stage.train(experiment, output, checkpoints)


@app.command()
def evaluate_segmentation(
    model: Model,
    data: Annotated[Path, typer.Argument(help="Images in ADE20K's layout.")],
    output: Annotated[Path, typer.Option(help="Folder for metrics and pictures.")],
    split: Annotated[Split, typer.Option(help="Which images.")] = Split.validation,
    limit: Limit = None,
    mode: ModeOption = None,
    flip: Flip = None,
    ratio: Ratio = None,
    crop: Crop = None,
    stride: Stride = None,
    precision: PrecisionOption = Precision.float32,
    workers: Workers = 2,
    model_options: ModelOptions = None,
) -> None:
    """Score a segmenter: mean IoU, accuracies, each class, and pictures of what it says."""
    from natural_images.config_file import parse_options
    from natural_images.segmentation import evaluate as stage

    stage.evaluate(
        model,
        data,
        output=output,
        split=split.value,
        limit=limit,
        **_test_options(mode, flip, ratio, crop, stride),
        precision=precision.value,
        workers=workers,
        model_options=parse_options(model_options or (), "--model-option"),
    )


@app.command()
def segment(
    model: Model,
    images: Images,
    output: Annotated[Path, typer.Option(help="Folder for pictures, labels and shares.")],
    mode: ModeOption = None,
    flip: Flip = None,
    ratio: Ratio = None,
    crop: Crop = None,
    stride: Stride = None,
    precision: PrecisionOption = Precision.float32,
    workers: Workers = 2,
    model_options: ModelOptions = None,
) -> None:
    """Name the class of each pixel of photographs: a picture, the labels, and classes' shares."""
    from natural_images.config_file import parse_options
    from natural_images.segmentation import segment as stage

    stage.segment(
        model,
        images,
        output=output,
        **_test_options(mode, flip, ratio, crop, stride),
        precision=precision.value,
        workers=workers,
        model_options=parse_options(model_options or (), "--model-option"),
    )


@app.command()
def train_detection(
    config: Annotated[Path, typer.Argument(help="The experiment; config/coco has some.")],
    output: Output,
    checkpoints: Checkpoints,
    initial: Initial = None,
    data: Data = None,
    overrides: Overrides = None,
) -> None:
    """Train a detector (ViTDet with Cascade Mask R-CNN) on images in COCO's layout.

    Run it under `accelerate launch` or `torchrun --no-python` for several GPUs: the batch and all
    else that is learned stay the same.
    """
    from natural_images.detection import train as stage
    from natural_images.detection.experiment import load_experiment

    experiment = load_experiment(config, with_paths(overrides, data=data, initial=initial))
    stage.train(experiment, output, checkpoints)


@app.command()
def evaluate_detection(
    model: Model,
    data: Annotated[Path, typer.Argument(help="Images in COCO's layout.")],
    output: Annotated[Path, typer.Option(help="Folder for metrics, detections and pictures.")],
    split: Annotated[Part, typer.Option(help="Which images.")] = Part.val,
    limit: Limit = None,
    precision: PrecisionOption = Precision.float32,
    workers: Workers = 2,
    backbone: Backbone = None,
) -> None:
    """Score a detector: average precision of boxes and masks, and pictures of what it finds."""
    from natural_images.detection import evaluate as stage

    stage.evaluate(
        model,
        data,
        output=output,
        split=split.value,
        limit=limit,
        precision=precision.value,
        workers=workers,
        backbone=backbone,
    )


@app.command()
def detect(
    model: Model,
    images: Images,
    output: Annotated[Path, typer.Option(help="Folder for pictures and detections.")],
    score: Annotated[float, typer.Option(min=0, max=1, help="Least score to keep.")] = 0.5,
    size: Annotated[
        int | None, typer.Option(min=1, help="Side that images are brought to, if not as trained.")
    ] = None,
    precision: PrecisionOption = Precision.float32,
    backbone: Backbone = None,
) -> None:
    """Find objects in photographs: a picture, and boxes, classes, scores and masks as JSON."""
    from natural_images.detection import detect as stage

    stage.detect(
        model,
        images,
        output=output,
        score=score,
        size=size,
        precision=precision.value,
        backbone=backbone,
    )


def _test_options(
    mode: Mode | None,
    flip: bool | None,
    ratios: list[float] | None,
    crop: int | None,
    stride: int | None,
) -> dict[str, Any]:
    return {
        "mode": mode.value if mode else None,
        "flip": flip,
        "ratios": ratios or None,
        "crop": crop,
        "stride": stride,
    }
