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
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError
from natural_images.segmentation.ade20k import SUFFIXES, is_image, read_image
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
        the annotation), ``share`` of the pixels and mean ``probability`` there.
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
    files = listed(images)
    _check_output(Path(output), files)
    model, info = load_segmenter(model_path, default_device(device), options=model_options)
    test = changed(info.test, mode=mode, flip=flip, ratios=ratios, crop=crop, stride=stride)
    predictor = Predictor(model, info.mean, info.std, test, precision)
    reports = []
    with closing(prefetch(_read, files, workers=workers)) as read:
        pairs = zip(files, read, strict=True)
        for file, image in track(pairs, description="segmenting", total=len(files)):
            if isinstance(image, NaturalImagesDataError):
                if len(files) == 1:
                    raise image
                log.warning("%s. It is passed over", image)
                continue
            probabilities = predictor.probabilities(image)
            reports.append(_write(file, image, probabilities, info.classes, Path(output)))
    if not reports:
        raise NaturalImagesDataError(f"none of {len(files)} images can be read, {files[0]} for one")
    return reports


def listed(images: Sequence[Path]) -> list[Path]:
    """Image files, and those in folders, each of another name.

    Raises NaturalImagesDataError for a path that is not there or a folder without images, and
    NaturalImagesValueError for two images that would be written under one name.
    """
    files: list[Path] = []
    for path in map(Path, images):
        inside = sorted(filter(is_image, path.iterdir())) if path.is_dir() else [path]
        if not inside or not path.exists():
            raise NaturalImagesDataError(
                f"{path}: expected an image or a folder of images ({', '.join(SUFFIXES)}), got "
                f"{'none in it' if path.exists() else 'nothing there'}"
            )
        files.extend(inside)
    if not files:
        raise NaturalImagesValueError("images: expected at least one image or folder, got none")
    names: dict[str, Path] = {}
    for file in files:
        if names.setdefault(file.stem, file) != file:
            raise NaturalImagesValueError(
                f"images: expected each of another name, got {names[file.stem]} and {file}, whose "
                "results would have the same. Rename one or segment them into other folders"
            )
    return list(names.values())


def _check_output(output: Path, files: Sequence[Path]) -> None:
    """Raise NaturalImagesValueError where results would lie among the images.

    They could replace one, and the next run would take them for photographs.
    """
    beside = [file for file in files if file.parent.resolve() == output.resolve()]
    if beside:
        raise NaturalImagesValueError(
            f"--output: expected another folder than that of {beside[0]}, got {output}. Name a "
            "folder for the results"
        )


def _read(file: Path) -> np.ndarray | NaturalImagesDataError:
    try:
        return read_image(file)
    except NaturalImagesDataError as error:
        return error


def _write(
    file: Path, image: np.ndarray, probabilities: Tensor, classes: Sequence[str], output: Path
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
    save_labels(labels, len(classes), output / f"{file.stem}_labels.png")
    drawn = output / f"{file.stem}_overlay.png"
    draw_overlay(image, {"Found": labels}, classes, drawn, title=file.name)
    with atomic_path(output / f"{file.stem}.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")
    return report
