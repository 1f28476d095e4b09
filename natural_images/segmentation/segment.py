"""Name the class of each pixel of photographs."""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.progress import track
from torch import Tensor

from fastvim.files import atomic_path
from fastvim.training.prefetch import prefetch
from natural_images.dense_run import Precision, check_run, default_device
from natural_images.errors import NaturalImagesDataError
from natural_images.photographs import find_photographs, read_photograph
from natural_images.segmentation.overlay import draw_overlay, save_labels
from natural_images.segmentation.predictions import (
    Predictor,
    changed,
)
from natural_images.segmentation.segmenter import load_segmenter

log = logging.getLogger(__name__)


def segment(
    model_path: Path,
    images: Sequence[Path],
    *,
    output: Path,
    mode: Literal["slide", "whole"] | None = None,
    flip: bool | None = None,
    ratios: Sequence[float] | None = None,
    crop: int | None = None,
    stride: int | None = None,
    precision: Precision = "float32",
    workers: int = 2,
    model_options: Mapping[str, Any] | None = None,
    device: str | None = None,
) -> list[dict[str, Any]]:
    """Segment photographs and write what was found into `output`.

    Parameters
    ----------
    model_path
        A model folder of training, or a published checkpoint file.
    images
        Image files, or folders of them, of any size.
    output
        Folder, other than that of the images, for, of each of them, ``<name>_overlay.png``;
        ``<name>_labels.png``, in the format of ADE20K's annotations, class k stored as k + 1; and
        ``<name>.json`` with ``image``, ``width`` and ``height`` in px (upright, where EXIF data say
        how), and ``classes``: the ones found, the largest first, each with ``class``, ``label`` (in
        the annotation), ``share`` of the pixels and mean ``probability`` there. An image from a
        folder keeps its path below it.
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
    What the JSON files hold, an image each.

    Raises
    ------
    NaturalImagesValueError, NaturalImagesDataError
        Where an option, the model or the images do not serve. An image that cannot be read among
        others is told of and passed over.
    """
    check_run(precision=precision, workers=workers)
    named = find_photographs(images, Path(output))
    model, info = load_segmenter(model_path, default_device(device), options=model_options)
    test = changed(info.test, mode=mode, flip=flip, ratios=ratios, crop=crop, stride=stride)
    predictor = Predictor(model, info.mean, info.std, test, precision)
    reports = []
    with closing(prefetch(_read, named.values(), workers=workers)) as read:
        pairs = zip(named.items(), read, strict=True)
        for (name, file), image in track(pairs, description="segmenting", total=len(named)):
            if isinstance(image, NaturalImagesDataError):
                if len(named) == 1:
                    raise image
                log.warning("%s. It is passed over", image)
                continue
            probabilities = predictor.probabilities(image)
            target = Path(output) / name
            reports.append(_write(file, image, probabilities, info.classes, target))
    if not reports:
        first = next(iter(named.values()))
        raise NaturalImagesDataError(f"none of {len(named)} images can be read, {first} for one")
    return reports


def _read(file: Path) -> np.ndarray | NaturalImagesDataError:
    try:
        return np.asarray(read_photograph(file))
    except NaturalImagesDataError as error:
        return error


def _write(
    file: Path, image: np.ndarray, probabilities: Tensor, classes: Sequence[str], target: Path
) -> dict[str, Any]:
    best, found = (tensor.cpu().numpy() for tensor in probabilities.float().max(dim=0))
    labels = found.astype(np.uint8)
    pixels = np.bincount(labels.ravel(), minlength=len(classes))
    sums = np.bincount(labels.ravel(), weights=best.ravel(), minlength=len(classes))
    report = {
        "image": str(file),
        "width": image.shape[1],
        "height": image.shape[0],
        "classes": [
            {
                "class": classes[label],
                "label": int(label) + 1,
                "share": round(float(pixels[label] / labels.size), 6),
                "probability": round(float(sums[label] / pixels[label]), 4),
            }
            for label in np.argsort(-pixels, kind="stable")
            if pixels[label]
        ],
    }
    save_labels(labels, len(classes), target.with_name(f"{target.name}_labels.png"))
    drawn = target.with_name(f"{target.name}_overlay.png")
    draw_overlay(image, {"Found": labels}, classes, drawn, title=file.name)
    with atomic_path(target.with_name(f"{target.name}.json")) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")
    return report
