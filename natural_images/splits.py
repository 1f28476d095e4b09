"""The images that an experiment trains and validates on."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fastvim.training.reading import read_ahead
from natural_images.classification.augment import eval_transform, normalise, train_transform
from natural_images.classification.images import ImageSource, Split, open_images
from natural_images.classification.quarantine import good_indices
from natural_images.classification.samples import ImageSamples

if TYPE_CHECKING:
    from natural_images.experiment import Experiment

FEW = 4000
"""So many images are decoded in threads before worker processes would have started."""


@dataclass(frozen=True)
class Splits:
    """Samples to train on, with their random transforms, and to validate on, without."""

    train: ImageSamples
    val: ImageSamples
    classes: tuple[str, ...]


def open_splits(experiment: "Experiment", *, most_validated: int | None = None) -> Splits:
    """Open both splits of an experiment's images, without those that its quarantine names.

    `most_validated` takes so many images of the validation split, evenly spread. Raises
    NaturalImagesDataError where the images are not what the experiment says.
    """
    data, augment = experiment.data, experiment.augment
    train = open_images(data.path, split="train", classes=data.classes)
    val = open_images(data.path, split="val", classes=data.classes)
    chosen = _indices(experiment, val, "val")
    if most_validated is not None and len(chosen) > most_validated:
        chosen = chosen[np.linspace(0, len(chosen) - 1, most_validated).astype(np.int64)]
    return Splits(
        train=ImageSamples(
            train, _indices(experiment, train, "train"), train_transform(augment, data.size)
        ),
        val=ImageSamples(
            val, chosen, eval_transform(augment, data.size), in_processes=len(chosen) > FEW
        ),
        classes=tuple(train.classes),
    )


def identity(experiment: "Experiment", splits: Splits) -> dict[str, str]:
    """What makes a run this one, beside its recipe: images, augmentation, model, masking."""
    labels = splits.train.source.labels[splits.train.indices]
    model = experiment.model
    return {
        "images": hashlib.sha256(np.asarray(labels, np.int64).tobytes()).hexdigest()[:16],
        "size": str(experiment.data.size),
        "augment": repr(experiment.augment),
        "options": json.dumps({"name": model.name, **model.options}, sort_keys=True, default=str),
        "task": experiment.task,
    }


def validation_batches(
    experiment: "Experiment", samples: ImageSamples, device: torch.device
) -> Iterator[dict[str, Tensor]]:
    """All samples in order, on `device`: images (b, 3, size, size) normalised, classes (b,)."""
    size = min(experiment.recipe.batch_size, experiment.data.images_at_once or 256)
    starts = range(0, len(samples), size)
    items = [(np.arange(start, min(start + size, len(samples))), 0) for start in starts]
    batches = read_ahead(
        samples, items, workers=experiment.recipe.num_workers, pin=device.type == "cuda"
    )
    with closing(batches):
        for batch in batches:
            moved = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            yield {**moved, "images": normalise(moved["images"], experiment.augment)}


def _indices(experiment: "Experiment", source: ImageSource, split: Split) -> np.ndarray:
    folder = experiment.data.quarantine
    return good_indices(source, folder / f"{split}.csv" if folder is not None else None)
