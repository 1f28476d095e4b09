"""How well a detector finds objects: average precision of boxes and masks."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.progress import track

from fastvim.files import atomic_path
from natural_images.dense_run import Precision, check_run, default_device, spread
from natural_images.detection.augment import AugmentSection
from natural_images.detection.average_precision import Scores, scores
from natural_images.detection.coco import CocoImages, Split, open_coco
from natural_images.detection.detector import load_detector
from natural_images.detection.pictures import draw_instances, side_by_side
from natural_images.detection.predictions import (
    Finder,
    Instances,
    annotated,
)
from natural_images.errors import NaturalImagesDataError

log = logging.getLogger(__name__)

VERSION = 1
DRAWN = 12
"""Images of which there are pictures, evenly spread."""
SHOWN_SCORE = 0.5
"""Least score of what is drawn."""


def evaluate(
    model_path: Path,
    data_path: Path,
    *,
    output: Path,
    split: Split = "val",
    limit: int | None = None,
    precision: Precision = "float32",
    workers: int = 2,
    device: str | None = None,
    backbone: str | None = None,
) -> dict[str, Any]:
    """Evaluate a detector on COCO's images, all of them, also those without an object.

    Parameters
    ----------
    model_path
        A model folder of training, or a published checkpoint file.
    data_path
        Images in the layout of `natural_images.detection.coco.open_coco`.
    output
        Folder for ``metrics.json``; ``detections.json``, COCO's format of results, boxes and
        masks; ``per_class.csv``; ``pictures/<name>.png``, a dozen images with what is annotated and
        what was found.
    limit
        Take this many images, evenly spread, for a quick look.
    workers
        Threads that decode ahead.
    device
        By default "cuda" where there is one.
    backbone
        Name in fastvim of the backbone of a published Vim's file, which does not tell.

    Returns
    -------
    dict
        What ``metrics.json`` holds: ``bbox`` and ``segm``, the twelve numbers of
        `natural_images.detection.average_precision` each; ``images_per_s`` with loading; and what
        was evaluated on what.

    Raises
    ------
    NaturalImagesValueError, NaturalImagesDataError
        Where an option, the model or the data do not serve.
    """
    check_run(precision=precision, limit=limit, workers=workers)
    device = default_device(device)
    model, info = load_detector(model_path, device, model=backbone)
    images = open_coco(data_path, split=split)
    if (images.classes, images.category_ids) != (info.classes, info.category_ids):
        raise NaturalImagesDataError(
            f"{images.annotations}: expected the model's {len(info.classes)} categories "
            f"({', '.join(info.classes[:3])}, …) with their ids, got {len(images.classes)} "
            f"({', '.join(images.classes[:3])}, …). Evaluate on the data that it was trained for"
        )
    indices = spread(len(images), limit)
    check_objects(images, indices)
    augment = AugmentSection(size=info.size, mean=info.mean, std=info.std)
    finder = Finder(model, augment, precision)
    chosen = {int(indices[place]) for place in spread(len(indices), DRAWN)}
    drawn: dict[int, Instances] = {}
    results: list[dict[str, Any]] = []
    started = time.monotonic()
    every = finder.find_all(images, indices, workers=workers)
    for index, found in track(every, description="evaluating", total=len(indices)):
        results += found.as_results(int(images.ids[index]), info.category_ids)
        if index in chosen:
            drawn[index] = found.from_score(SHOWN_SCORE)
    speed = len(indices) / (time.monotonic() - started)
    box, mask = compare(images, indices, results)
    metrics: dict[str, Any] = {
        "version": VERSION,
        "model": str(model_path),
        "architecture": info.model,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "data": str(data_path),
        "split": split,
        "images": len(indices),
        "images_available": len(images),
        "classes": len(images.classes),
        "size_px": info.size,
        "precision": precision,
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "detections": len(results),
        "bbox": box.numbers,
        "segm": mask.numbers,
        "images_per_s": round(speed, 2),
    }
    with atomic_path(Path(output) / "pictures") as folder:
        for index, found in drawn.items():
            _draw(images, index, found, folder)
    _write(Path(output), metrics, results, images, box, mask)
    log.info(
        "%s on %d images: box AP %.4f, mask AP %.4f, %.1f images/s",
        *(model_path, len(indices), box.numbers["AP"], mask.numbers["AP"], speed),
    )
    return metrics


def check_objects(images: CocoImages, indices: np.ndarray) -> None:
    """Raise NaturalImagesDataError where no object is annotated in images at `indices`.

    There is no average precision of them, which is better known before a model has seen them.
    """
    if not np.isin(indices, images.with_instances()).any():
        raise NaturalImagesDataError(
            f"{images.annotations}: expected an object in {len(indices)} images, got none. Take "
            "more images"
        )


def compare(
    images: CocoImages, indices: np.ndarray, results: list[dict[str, Any]]
) -> tuple[Scores, Scores]:
    """Scores of boxes and of masks that were found in images at `indices`."""
    ids = images.ids[indices].tolist()
    box, mask = (scores(images.annotations, results, kind, images=ids) for kind in ("bbox", "segm"))
    return box, mask


def _draw(images: CocoImages, index: int, found: Instances, folder: Path) -> None:
    image, truth = images.read(index), annotated(images, index)
    side_by_side(
        {
            f"Annotated: {len(truth)}": draw_instances(image, truth, images.classes),
            f"Found with a score from {SHOWN_SCORE:g}: {len(found)}": draw_instances(
                image, found, images.classes
            ),
        },
        folder / f"{Path(images.name(index)).stem}.png",
    )


def _write(
    output: Path,
    metrics: dict[str, Any],
    results: list[dict[str, Any]],
    images: CocoImages,
    box: Scores,
    mask: Scores,
) -> None:
    """Write everything; ``metrics.json`` last, so that it stands for the rest."""
    with atomic_path(output / "detections.json") as temporary:
        temporary.write_text(json.dumps(results))
    table = pd.DataFrame(
        {
            "class": images.classes,
            "category_id": images.category_ids,
            "box_AP": [box.by_category[number] for number in images.category_ids],
            "mask_AP": [mask.by_category[number] for number in images.category_ids],
        }
    )
    with atomic_path(output / "per_class.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    with atomic_path(output / "metrics.json") as temporary:
        temporary.write_text(json.dumps(metrics, indent=1, allow_nan=False) + "\n")
