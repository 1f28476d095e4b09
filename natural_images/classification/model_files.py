"""Classifiers to and from a folder with what it takes to use them.

A folder holds the architecture (``config.json``) and the weights (``model.safetensors``) as
fastvim writes them, or timm's configuration for a timm model, the averaged weights of the training
in ``ema.safetensors`` if there are any, and ``natural_images.json`` with the rest.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, ImageNetInfo
from torch import Tensor, nn

import fastvim
from fastvim.classifier import ImageClassifier
from fastvim.files import atomic_path
from fastvim.pretrained import CONFIG, WEIGHTS
from natural_images.classification.architectures import build_timm, timm_config
from natural_images.classification.augment import Interpolation
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError

DESCRIPTION, AVERAGED = "natural_images.json", "ema.safetensors"
EMA_ENTRY = "state_dict_ema"

PUBLISHED_CROP, PUBLISHED_CROP_UP_TO = 0.875, 224
"""Middle part of the image that the published evaluation sees, up to 224 px; beyond, all of it."""

Weights = Literal["plain", "ema"]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class ModelInfo:
    """What it takes to use a classifier, and what to call it in a table.

    classes
        Names of the classes, in the order of the logits; WordNet ids for ImageNet.
    mean, std
        Of red, green and blue, for pixels from 0 to 1.
    size
        Side of the trained images in px.
    eval_crop
        Part of the shorter side that the middle crop keeps at evaluation.
    architecture, parameters
        The model's class here, or its name in timm, and how many parameters it has.
    weights, weights_sha256
        Which weights were loaded, and the digest of their file.
    interpolation
        Of the resizing in training, as in `augment.Augment`.
    published
        Whether it is a published checkpoint file, which does not tell its crop.
    """

    classes: tuple[str, ...]
    mean: Colour
    std: Colour
    size: int
    eval_crop: float
    architecture: str
    parameters: int
    weights: Weights
    weights_sha256: str
    interpolation: Interpolation = "bicubic"
    published: bool = False

    def crop_at(self, size: int) -> float:
        """Part of the shorter side to keep where the model sees `size` px.

        As trained; the published evaluation went by the size.
        """
        return published_crop(size) if self.published else self.eval_crop


def published_crop(size: int) -> float:
    """Part of the shorter side that the published evaluation keeps at `size` px."""
    return PUBLISHED_CROP if size <= PUBLISHED_CROP_UP_TO else 1.0


def save_model(
    model: nn.Module,
    folder: Path,
    *,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    size: int,
    eval_crop: float = PUBLISHED_CROP,
    interpolation: Interpolation = "bicubic",
    ema: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a classifier's folder atomically; an older folder of that name is replaced.

    `ema` are the averaged weights by the model's own names; the other arguments are those of
    `ModelInfo`. Raises NaturalImagesValueError where the number of classes or the averaged names
    are not the model's.
    """
    if len(classes) != model.num_classes:
        raise NaturalImagesValueError(
            f"{folder}: expected {model.num_classes} names of classes, one a logit, "
            f"got {len(classes)}"
        )
    if ema is not None and set(ema) != set(model.state_dict()):
        different = sorted(set(ema) ^ set(model.state_dict()))
        raise NaturalImagesValueError(f"{folder}: ema: {different[:5]} are not in both models")
    described = {
        "classes": list(classes),
        "mean": list(mean),
        "std": list(std),
        "size": size,
        "eval_crop": eval_crop,
        "interpolation": interpolation,
    }
    with atomic_path(folder) as temporary:
        if isinstance(model, ImageClassifier):
            model.save_pretrained(temporary)
        else:
            _save_timm(model, temporary, described)
        if ema is not None:
            save_file(_on_their_own(ema), temporary / AVERAGED, metadata={"format": "pt"})
        (temporary / DESCRIPTION).write_text(json.dumps(described, indent=2) + "\n")


def load_model(
    path: str | Path,
    *,
    weights: Weights = "plain",
    device: str | torch.device = "cpu",
    options: Mapping[str, Any] | None = None,
) -> tuple[nn.Module, ModelInfo]:
    """Load a folder of `save_model` or a published checkpoint file, in evaluation mode.

    A published file brings no names and no statistics: it gets ImageNet's, a classifier of another
    number of classes the names "0", "1" and so on.

    Parameters
    ----------
    weights
        "ema" for the averaged ones.
    options
        Of the model in a published file, for what the file does not tell; a folder tells all.

    Raises
    ------
    NaturalImagesValueError
        For other `weights` than these, and for `options` of a folder.
    NaturalImagesDataError
        Where there is no such classifier, or it has no averaged weights.
    """
    path = Path(path)
    if weights not in get_args(Weights):
        raise NaturalImagesValueError(
            f"weights: expected one of {[*get_args(Weights)]}, got {weights!r}"
        )
    if not path.exists():
        raise NaturalImagesDataError(
            f"{path}: not there. Expected a model folder of training or a published checkpoint"
        )
    if options and path.is_dir():
        raise NaturalImagesValueError(
            f"{path}: expected no options of the model, which {CONFIG} in this folder tells, got "
            f"{dict(options)}. They are for published checkpoint files"
        )
    try:
        if path.is_dir():
            model, described = _load_folder(path, weights)
        else:
            model, described = _load_file(path, weights, options or {})
    except NaturalImagesDataError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise NaturalImagesDataError(f"{path}: no image classifier to load ({error})") from error
    described["parameters"] = sum(value.numel() for value in model.parameters())
    return model.to(device).eval(), ModelInfo(weights=weights, **described)


@cache
def imagenet_ids() -> tuple[str, ...]:
    """WordNet ids of ImageNet's 1000 classes, sorted: the order of labels everywhere."""
    return tuple(ImageNetInfo().label_names())


def describe_class(name: str) -> str:
    """What people call a class: the first words for a WordNet id of ImageNet, else its own name."""
    return _imagenet_words().get(name, name)


@cache
def _imagenet_words() -> dict[str, str]:
    info = ImageNetInfo()
    return {name: info.label_name_to_description(name).split(",")[0] for name in imagenet_ids()}


def _load_folder(folder: Path, weights: Weights) -> tuple[nn.Module, dict[str, Any]]:
    if not (folder / DESCRIPTION).is_file():
        raise NaturalImagesDataError(
            f"{folder}: expected a model folder with {CONFIG}, {WEIGHTS} and {DESCRIPTION}, found "
            f"no {DESCRIPTION}. Training writes such folders"
        )
    file = folder / (AVERAGED if weights == "ema" else WEIGHTS)
    if not file.is_file() and weights == "ema":
        raise NaturalImagesDataError(
            f"{folder}: no averaged weights ({AVERAGED}). Train with recipe.ema_decay, or ask for "
            "weights 'plain'"
        )
    described = json.loads((folder / DESCRIPTION).read_text())
    config = json.loads((folder / CONFIG).read_text())
    if "architecture" in config:
        model: Any = build_timm(config["architecture"], config["model_args"])
        model.load_state_dict(load_file(file))
    else:
        model = fastvim.from_pretrained(folder)
        if weights == "ema":
            model.load_state_dict(load_file(file))
    described = {k: tuple(v) if isinstance(v, list) else v for k, v in described.items()}
    described["architecture"] = config.get("architecture", config.get("model"))
    described["weights_sha256"] = _digest(file)
    if len(described["classes"]) != model.num_classes:
        raise ValueError(
            f"{DESCRIPTION} names {len(described['classes'])} classes, the model has "
            f"{model.num_classes}"
        )
    return model, described


def _load_file(
    file: Path, weights: Weights, options: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    with warnings.catch_warnings():
        # only the head matters here, and it is checked below
        warnings.simplefilter("ignore", UserWarning)
        model = fastvim.load_published(file, ema=weights == "ema", **options)
    report = model.load_report
    if not isinstance(model, ImageClassifier) or "head.weight" in report.missing:
        raise NaturalImagesDataError(
            f"{file}: expected an image classifier with its head, got a {type(model).__name__}. "
            "Fine-tune it or probe it first"
        )
    if weights == "ema" and report.entry != EMA_ENTRY:
        raise NaturalImagesDataError(
            f"{file}: no averaged weights: expected an entry {EMA_ENTRY}, found "
            f"{report.entry or 'bare weights'}. Ask for weights 'plain'"
        )
    sides = model.options["img_size"]
    size = max(sides) if isinstance(sides, Sequence) else sides
    names, count = imagenet_ids(), model.num_classes
    return model, {
        "classes": names if count == len(names) else tuple(map(str, range(count))),
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "size": size,
        "eval_crop": published_crop(size),
        "published": True,
        "architecture": type(model).__name__,
        "weights_sha256": _digest(file),
    }


def _save_timm(model: Any, folder: Path, described: Mapping[str, Any]) -> None:
    """The folder that timm itself writes and opens as ``local-dir:<folder>``."""
    config = timm_config(model, described, where=str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    save_file(_on_their_own(model.state_dict()), folder / WEIGHTS, metadata={"format": "pt"})


def _on_their_own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that share no memory, as safetensors wants them."""
    return {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
