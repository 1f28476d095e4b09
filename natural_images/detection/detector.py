"""Detectors of instances: built by name, to and from a folder with what it takes to use them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import fastvim
from fastvim.dense import DenseBackbone
from natural_images.dense_folder import read_folder, save_folder
from natural_images.detection.cascade import Detections
from natural_images.detection.head_section import HeadSection
from natural_images.detection.mask_heads import paste_masks
from natural_images.detection.mask_rcnn import Detector
from natural_images.detection.published import load_tensors, open_published
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError

__all__ = [
    "Detections",
    "Detector",
    "DetectorInfo",
    "HeadSection",
    "build_detector",
    "load_detector",
    "paste_masks",
    "save_detector",
]

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class DetectorInfo:
    """What it takes to rebuild and to use a detector.

    classes, category_ids
        Names in the order of the logits, and their ids in the data's own files.
    mean, std
        Of red, green and blue, for pixels from 0 to 1.
    size
        Side of the trained images in px.
    model, options
        The backbone's name in fastvim, and options of its constructor.
    heads
        Numbers of the rest.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    mean: Colour
    std: Colour
    size: int
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    heads: HeadSection = field(default_factory=HeadSection)


def build_detector(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    num_classes: int,
    heads: HeadSection | None = None,
    size: int,
) -> Detector:
    """Build an untrained detector.

    Parameters
    ----------
    name
        Of a dense backbone, as fastvim knows it.
    options
        Of its constructor. By default it returns the map of its last block.
    size
        Side of the images in px.

    Raises
    ------
    NaturalImagesValueError
        For an unknown name, a model that is no dense backbone, or an option that it does not have.
    """
    given = {"img_size": size, "out_indices": [-1], **(options or {})}
    try:
        backbone = fastvim.create_model(name, **given)
    except (TypeError, ValueError) as error:
        raise NaturalImagesValueError(f"model: {error}") from error
    if not isinstance(backbone, DenseBackbone):
        known = fastvim.list_models("*_dense")
        raise NaturalImagesValueError(
            f"model.name: expected a dense backbone, one of {known}, got {name!r}"
        )
    return Detector(backbone, num_classes, heads or HeadSection())


def save_detector(model: Detector, output: Path, info: DetectorInfo) -> None:
    """Write a detector's folder atomically; an older folder of that name is replaced.

    Raises NaturalImagesValueError where `info` names other classes than the model has.
    """
    counts = len(info.classes), len(info.category_ids)
    if counts != (model.num_classes, model.num_classes):
        raise NaturalImagesValueError(
            f"{output}: expected {model.num_classes} classes and ids, got {counts[0]} and "
            f"{counts[1]}"
        )
    save_folder(model, output, asdict(info))


def load_detector(
    path: str | Path, device: str | torch.device = "cpu", *, model: str | None = None
) -> tuple[Detector, DetectorInfo]:
    """Load a folder of `save_detector` or a published checkpoint file, in evaluation mode.

    A published file brings neither names nor statistics: it gets those of COCO and ImageNet.

    Parameters
    ----------
    model
        The backbone's name, for a published file of a Vim, whose names and shapes are those of a
        FastVim.

    Raises
    ------
    NaturalImagesValueError
        For a name with a folder, which tells it.
    NaturalImagesDataError
        Where there is no such detector, or its weights are not those that it needs.
    """
    path = Path(path)
    if path.is_dir() and model is not None:
        raise NaturalImagesValueError(
            f"{path}: expected no name of the backbone, which this folder tells, got {model!r}. It "
            "is for published checkpoint files"
        )
    if path.is_dir():
        described, tensors = read_folder(path)
        info = _read_info(path, described)
    else:
        published = open_published(path, model)
        info, tensors = DetectorInfo(**published.described), published.tensors
    count = len(info.classes)
    built = build_detector(
        info.model, info.options, num_classes=count, heads=info.heads, size=info.size
    )
    load_tensors(built, tensors, path)
    return built.to(device).eval(), info


def _read_info(path: Path, described: Mapping[str, Any]) -> DetectorInfo:
    def tuples(values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            k: tuple(v) if isinstance(v, Sequence) and not isinstance(v, str) else v
            for k, v in values.items()
        }

    try:
        return DetectorInfo(**{**tuples(described), "heads": HeadSection(**described["heads"])})
    except (KeyError, TypeError, ValueError) as error:
        raise NaturalImagesDataError(
            f"{path}: expected the folder of a detector, got another description ({error}). "
            "`natural-images train-detection` writes such folders"
        ) from error
