"""Find objects in photographs: a picture and a JSON of each."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from fastvim.files import atomic_path
from natural_images.dense_run import Precision, check_run, default_device
from natural_images.detection.augment import AugmentSection, fill_colour, fit
from natural_images.detection.detector import load_detector
from natural_images.detection.pictures import draw_instances, save_png
from natural_images.detection.predictions import Finder
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError
from natural_images.photographs import find_photographs, read_photograph

log = logging.getLogger(__name__)


def detect(
    model_path: Path,
    images: Sequence[Path],
    *,
    output: Path,
    score: float = 0.5,
    size: int | None = None,
    precision: Precision = "float32",
    device: str | None = None,
    backbone: str | None = None,
) -> list[dict[str, Any]]:
    """Find the objects in photographs of any size, upright as their EXIF data say.

    Parameters
    ----------
    model_path
        A model folder of training, or a published checkpoint file.
    images
        Files, or folders of them.
    output
        Folder for ``<name>.png``, the photograph with masks, boxes, classes and scores drawn over,
        and ``<name>.json``: what this function returns of the image. A photograph from a folder
        keeps its path below it.
    score
        Least score of what is kept.
    size
        Side in px of the square that a photograph is brought to, by default as trained: a larger
        one shows smaller objects, at the price of time and memory.
    device
        By default "cuda" where there is one.
    backbone
        Name in fastvim of the backbone of a published Vim's file, which does not tell.

    Returns
    -------
    One dict an image: ``image`` (its path), ``width``, ``height`` (px) and ``objects``, the surest
    first, each with ``class``, ``category_id``, ``score``, ``bbox`` (x, y, width, height in px) and
    ``segmentation`` (mask of the image's size in COCO's compressed run lengths).

    Raises
    ------
    NaturalImagesValueError, NaturalImagesDataError
        Where an option, the model or the images do not serve. An image that cannot be read among
        others is told of and passed over.
    """
    check_run(precision=precision)
    if not 0 <= score <= 1:
        raise NaturalImagesValueError(f"score: expected a number from 0 to 1, got {score}")
    if size is not None and size < 1:
        raise NaturalImagesValueError(f"size: expected at least 1 px, got {size}")
    named = find_photographs(images, Path(output))
    model, info = load_detector(model_path, default_device(device), model=backbone)
    augment = AugmentSection(size=size or info.size, mean=info.mean, std=info.std)
    finder = Finder(model, augment, precision)
    written = []
    for name, file in track(named.items(), description="detecting"):
        try:
            image = read_photograph(file)
        except NaturalImagesDataError as error:
            if len(named) == 1:
                raise
            log.warning("%s. It is passed over", error)
            continue
        placement = fit((image.height, image.width), augment.size)
        pixels = torch.from_numpy(placement.pixels(image, fill_colour(augment)).copy())
        found = finder.find(pixels.unsqueeze(0), [placement])[0].from_score(score)
        objects = [
            {"class": info.classes[label], **{k: v for k, v in row.items() if k != "image_id"}}
            for label, row in zip(
                found.classes, found.as_results(0, info.category_ids), strict=True
            )
        ]
        described = {"image": str(file), "width": image.width, "height": image.height}
        written.append({**described, "objects": objects})
        save_png(draw_instances(image, found, info.classes), output / f"{name}.png")
        with atomic_path(output / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(written[-1], indent=1) + "\n")
    if not written:
        first = next(iter(named.values()))
        raise NaturalImagesDataError(f"none of {len(named)} images can be read, {first} for one")
    log.info("%d objects in %d images: %s", _count(written), len(written), output)
    return written


def _count(written: Sequence[dict[str, Any]]) -> int:
    return sum(len(one["objects"]) for one in written)
