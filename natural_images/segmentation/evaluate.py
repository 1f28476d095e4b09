"""How well a segmenter finds the class of each pixel."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.progress import track

from fastvim.files import atomic_path
from natural_images.dense_run import Precision, check_run, default_device, spread
from natural_images.errors import NaturalImagesDataError
from natural_images.segmentation.ade20k import AnnotatedImages, Split, open_ade20k
from natural_images.segmentation.metrics import Scores, confusion_matrix, scores
from natural_images.segmentation.overlay import draw_overlay
from natural_images.segmentation.predictions import (
    Prediction,
    Predictor,
    changed,
    predictions,
)
from natural_images.segmentation.segmenter import load_segmenter

log = logging.getLogger(__name__)

VERSION = 1
DRAWN = 8
"""Images of which overlays are drawn."""


def evaluate(
    model_path: Path,
    data_path: Path,
    *,
    output: Path,
    split: Split = "validation",
    limit: int | None = None,
    mode: Literal["slide", "whole"] | None = None,
    flip: bool | None = None,
    ratios: Sequence[float] | None = None,
    crop: int | None = None,
    stride: int | None = None,
    precision: Precision = "float32",
    workers: int = 2,
    model_options: Mapping[str, Any] | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Evaluate a segmenter on annotated images and write what was found into `output`.

    Parameters
    ----------
    model_path
        A model folder of training, or a published checkpoint file.
    data_path
        In the layout of `natural_images.segmentation.ade20k.open_ade20k`, with the model's classes.
    output
        Folder for ``metrics.json``; ``per_class.csv`` (as in `Scores.per_class`); and
        ``overlays/<name>.png`` of eight images, their labels and what was found.
    limit
        Take this many images, evenly spread, for a quick look.
    mode, flip, ratios, crop, stride
        How images are segmented, as in `TestSection`; by default as trained.
    workers
        Threads that decode ahead.
    model_options
        Of the backbone in a published checkpoint file, for what the file does not tell.
    device
        By default "cuda" where there is one.

    Returns
    -------
    dict
        What ``metrics.json`` holds: ``miou``, ``mean_accuracy`` and ``pixel_accuracy``, of all
        pixels together; ``images_per_s`` with decoding; and what was evaluated on what.

    Raises
    ------
    NaturalImagesValueError, NaturalImagesDataError
        Where an option, the model or the data do not serve.
    """
    check_run(precision=precision, workers=workers, limit=limit)
    device = default_device(device)
    model, info = load_segmenter(model_path, device, options=model_options)
    test = changed(info.test, mode=mode, flip=flip, ratios=ratios, crop=crop, stride=stride)
    source = open_ade20k(data_path, split=split, classes=len(info.classes))
    check_names(info.classes, source, data_path)
    predictor = Predictor(model, info.mean, info.std, test, precision)
    indices = spread(len(source), limit)
    started = time.monotonic()
    with atomic_path(Path(output) / "overlays") as overlays:
        overlays.mkdir()
        result = _score(
            predictor, source, indices, info.classes, workers=workers, overlays=overlays
        )
    seconds = time.monotonic() - started
    if np.isnan(result.miou):
        raise NaturalImagesDataError(
            f"{data_path}: expected pixels with classes, all of {len(indices)} annotations are 0, "
            "which is ignored"
        )
    metrics: dict[str, Any] = {
        "version": VERSION,
        "model": str(model_path),
        "architecture": info.model,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "model_options": dict(model_options or {}),
        "data": str(data_path),
        "split": split,
        "images": len(indices),
        "images_available": len(source),
        "classes": len(info.classes),
        "classes_scored": int(result.per_class["iou"].notna().sum()),
        "test": asdict(test),
        "precision": precision,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "miou": result.miou,
        "mean_accuracy": result.mean_accuracy,
        "pixel_accuracy": result.pixel_accuracy,
        "images_per_s": round(len(indices) / seconds, 2),
    }
    with atomic_path(Path(output) / "per_class.csv") as temporary:
        result.per_class.to_csv(temporary, index=False, float_format="%.6g")
    # Last, so that it stands for the rest.
    with atomic_path(Path(output) / "metrics.json") as temporary:
        temporary.write_text(json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    log.info(
        "%s on %d images: mIoU %.2f %%, mean accuracy %.2f %%, pixel accuracy %.2f %%",
        model_path,
        len(indices),
        *(100 * metrics[key] for key in ("miou", "mean_accuracy", "pixel_accuracy")),
    )
    return metrics


def check_names(known: Sequence[str], source: AnnotatedImages, data_path: Path) -> None:
    """Raise NaturalImagesDataError where a table beside the images names other classes.

    One of a class's synonyms is enough: ADE20K's own tables do not agree on which is the first.
    """
    if not source.synonyms:
        return
    differing = [
        (number, model, data[0])
        for number, (model, data) in enumerate(zip(known, source.synonyms, strict=True), start=1)
        if model not in data
    ]
    if differing:
        number, model, data = differing[0]
        raise NaturalImagesDataError(
            f"{data_path}: expected the model's classes, got {data!r} where class {number} is "
            f"{model!r} to the model ({len(differing)} differ). Evaluate it on images with the "
            "classes that it was trained on"
        )


def _score(
    predictor: Predictor,
    source: AnnotatedImages,
    indices: np.ndarray,
    classes: Sequence[str],
    *,
    workers: int,
    overlays: Path,
) -> Scores:
    drawn = {int(indices[place]) for place in spread(len(indices), DRAWN)}
    confusion = torch.zeros(len(classes), len(classes), dtype=torch.int64, device=predictor.device)
    for found in track(
        predictions(predictor, source, indices, workers=workers),
        description="segmenting",
        total=len(indices),
    ):
        labels = torch.from_numpy(found.labels).to(predictor.device)
        counts = confusion_matrix(labels, found.predicted, len(classes))
        confusion += counts
        if found.index in drawn:
            _draw(found, source.name(found.index), scores(counts, classes), classes, overlays)
    return scores(confusion, classes)


def _draw(
    found: Prediction, name: str, result: Scores, classes: Sequence[str], overlays: Path
) -> None:
    draw_overlay(
        found.image,
        {"Labelled": found.labels, "Found": found.predicted.cpu().numpy()},
        classes,
        overlays / f"{name}.png",
        title=f"{name}: {result.pixel_accuracy:.0%} of the labelled pixels are right, "
        f"mIoU of this image {result.miou:.2f}",
    )
