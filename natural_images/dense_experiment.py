"""What an experiment of segmentation shares with one of detection."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvim.training import Recipe
from natural_images.dense_initial import digest
from natural_images.errors import NaturalImagesValueError
from natural_images.experiment import ModelSection
from natural_images.sections import read_sections


@dataclass(frozen=True)
class DataSection:
    """Where the images are and how they are read.

    path
        A folder in the layout of `natural_images.segmentation.ade20k.open_ade20k` or of
        `natural_images.detection.coco.open_coco`.
    classes
        How many there must be; None takes as many as are named there.
    images_at_once
        The most images that a process trains on at once; a larger share of the batch is accumulated
        in parts. None splits as ``recipe.accumulation`` says.
    """

    path: Path
    classes: int | None = None
    images_at_once: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | Path) or not str(self.path):
            raise NaturalImagesValueError(f"path: expected a folder, got {self.path!r}")
        for key in ("classes", "images_at_once"):
            value = getattr(self, key)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (whole and value >= 1):
                raise NaturalImagesValueError(
                    f"{key}: expected none or a whole number from 1, got {value!r}"
                )
        object.__setattr__(self, "path", Path(self.path))


@dataclass(frozen=True, kw_only=True)
class DenseExperiment:
    """What a YAML and the options of a command ask for, checked.

    path
        The YAML.
    model
        A dense backbone of fastvim; its ``img_size`` is that of training images unless the options
        say otherwise.
    heads, augment
        What stands on the backbone, and how training images are changed.
    initial
        Weights that the backbone starts from: a published checkpoint, or a model folder of ours.
    """

    path: Path
    model: ModelSection
    heads: Any
    data: DataSection
    augment: Any
    recipe: Recipe
    initial: Path | None = None


def read_dense(
    path: Path, overrides: Sequence[str], sections: Mapping[str, type]
) -> dict[str, Any]:
    """Read the sections of an experiment, its path, and the weights it starts from.

    Raises as `natural_images.sections.read_sections`, and NaturalImagesValueError for averaged
    weights, which the folder of a dense model has no place for.
    """
    built = read_sections(path, overrides, sections, plain=["initial"])
    initial, recipe = built["initial"], built["recipe"]
    if initial is not None and not (isinstance(initial, str) and initial):
        raise NaturalImagesValueError(
            f"{path}: initial: expected a checkpoint file or a model folder, got {initial!r}"
        )
    if recipe.ema_decay is not None:
        raise NaturalImagesValueError(
            f"{path}: recipe.ema_decay: expected none for a dense model, whose folder has one set "
            f"of weights, got {recipe.ema_decay}. Remove it"
        )
    return {**built, "path": Path(path), "initial": None if initial is None else Path(initial)}


def identity(experiment: DenseExperiment, images: str) -> dict[str, str | None]:
    """What makes a run this one, beside its recipe; `images` is a digest of what it trains on."""
    model = experiment.model
    return {
        "images": images[:16],
        "augment": repr(experiment.augment),
        "heads": repr(experiment.heads),
        "options": json.dumps({"name": model.name, **model.options}, sort_keys=True, default=str),
        "initial": digest(experiment.initial) if experiment.initial is not None else None,
    }
