"""Segmenters built by name, and to and from a folder with what it takes to use them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from fastvim import create_model
from fastvim.dense import DenseBackbone
from natural_images.dense_folder import read_folder, save_folder
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError
from natural_images.segmentation.inference import TestSection
from natural_images.segmentation.network import Segmenter
from natural_images.segmentation.published import class_names, read_published, registry_name
from natural_images.segmentation.upernet import HeadSection

TASK = "segmentation"

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class SegmenterInfo:
    """What it takes to rebuild a segmenter and to use it.

    classes
        Names in the order of the logits.
    mean, std
        Of red, green and blue, for pixels from 0 to 1.
    crop
        Side of the trained crops in px.
    model, options
        Name of the backbone in fastvim's registry, and options of its constructor.
    heads
        Sizes of the heads.
    test
        How images are segmented.
    """

    classes: tuple[str, ...]
    mean: Colour
    std: Colour
    crop: int
    model: str
    options: Mapping[str, Any]
    heads: HeadSection
    test: TestSection


def build_segmenter(
    name: str, options: Mapping[str, Any], *, num_classes: int, heads: HeadSection, crop: int
) -> Segmenter:
    """Build a segmenter on a dense backbone of fastvim's registry.

    Parameters
    ----------
    name, options
        Of the backbone; its ``img_size`` is `crop` unless the options say otherwise.
    num_classes
        Of the labels.
    crop
        Side of the trained crops in px.

    Raises
    ------
    NaturalImagesValueError
        No such model, an option that it does not have, or a model that is no dense backbone.
    """
    try:
        backbone = create_model(name, **{"img_size": crop, **options})
    except (TypeError, ValueError) as error:
        raise NaturalImagesValueError(f"model: {error}") from error
    if not isinstance(backbone, DenseBackbone):
        raise NaturalImagesValueError(
            f"model.name: expected a dense backbone, fastvim_tiny_patch16_dense say, got {name!r}"
        )
    return Segmenter(backbone, num_classes, heads)


def save_segmenter(model: Segmenter, output: Path, info: SegmenterInfo) -> None:
    """Write a segmenter's folder; it appears whole, in place of an earlier one.

    Options of the backbone and sizes of the heads are written as the model has them.

    Raises NaturalImagesValueError where names of classes and logits differ in number.
    """
    if len(info.classes) != model.num_classes:
        raise NaturalImagesValueError(
            f"{output}: expected {model.num_classes} names of classes, one a logit, got "
            f"{len(info.classes)}"
        )
    described = {"task": TASK, **asdict(info)}
    described |= {"options": model.backbone.options, "heads": asdict(model.heads)}
    save_folder(model, output, described)


def load_segmenter(
    path: Path, device: str | torch.device = "cpu", *, options: Mapping[str, Any] | None = None
) -> tuple[Segmenter, SegmenterInfo]:
    """Load a folder of `save_segmenter` or a published ADE20K checkpoint, in evaluation mode.

    A published file brings no names and no statistics: it gets ADE20K's names where it has 150
    classes, else "class 1" and so on, and ImageNet's statistics.

    Parameters
    ----------
    options
        Of `fastvim.load_published`, for what a published file does not tell, such as
        ``family="vim"``; a folder tells all.

    Raises
    ------
    NaturalImagesValueError
        For `options` of a folder.
    NaturalImagesDataError
        Where there is no segmenter.
    """
    path = Path(path)
    if not path.exists():
        raise NaturalImagesDataError(
            f"{path}: not there. Expected a model folder of train-segmentation or a published "
            "ADE20K checkpoint"
        )
    if path.is_dir() and options:
        raise NaturalImagesValueError(
            f"{path}: expected no options of the model, which this folder tells, got "
            f"{dict(options)}. They are for published checkpoint files"
        )
    model, info = _load_folder(path) if path.is_dir() else _load_file(path, options or {})
    return model.to(device).eval(), info


def _load_folder(folder: Path) -> tuple[Segmenter, SegmenterInfo]:
    described, tensors = read_folder(folder)
    task = described.pop("task", None)
    if task != TASK:
        raise NaturalImagesDataError(
            f"{folder}: expected a model of task {TASK!r}, got {task!r}. Train one with "
            "`natural-images train-segmentation`"
        )
    try:
        for key in ("classes", "mean", "std"):
            described[key] = tuple(described[key])
        described["heads"] = HeadSection(**described["heads"])
        described["test"] = TestSection(**described["test"])
        info = SegmenterInfo(**described)
        model = build_segmenter(
            info.model,
            info.options,
            num_classes=len(info.classes),
            heads=info.heads,
            crop=info.crop,
        )
        model.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        # Of a list of tensors that do not fit, the first.
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise NaturalImagesDataError(
            f"{folder}: no segmenter to load ({reason}). Train it again"
        ) from error
    return model, info


def _load_file(file: Path, options: Mapping[str, Any]) -> tuple[Segmenter, SegmenterInfo]:
    found = read_published(file, options)
    model = Segmenter(found.backbone, found.num_classes, found.heads)
    model.decode_head.load_state_dict(found.tensors("decode_head"))
    model.auxiliary_head.load_state_dict(found.tensors("auxiliary_head"))
    crop = max(found.backbone.grid) * found.backbone.patch_size
    return model, SegmenterInfo(
        classes=class_names(found.num_classes),
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        crop=crop,
        model=registry_name(found.backbone),
        options=found.backbone.options,
        heads=found.heads,
        test=TestSection(crop=crop, stride=round(crop * 2 / 3)),
    )
