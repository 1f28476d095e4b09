"""The images that an experiment trains and validates on."""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fastvim.training.reading import RepeatedReading
from natural_images.classification.augment import eval_transform, normalise, train_transform
from natural_images.classification.images import ImageSource, Split, open_images
from natural_images.classification.quarantine import RunQuarantine, good_indices
from natural_images.classification.samples import ImageSamples, check_share
from natural_images.errors import NaturalImagesDataError

if TYPE_CHECKING:
    from natural_images.experiment import Experiment

log = logging.getLogger(__name__)

QUARANTINE = "quarantine.csv"
"""Beside a run's curves: images of either split that it could not decode."""
FEW = 4000
"""So many images are decoded in threads before worker processes would have started."""
VALIDATED_AT_ONCE = 256


@dataclass(frozen=True)
class Splits:
    """Samples to train on, with their random transforms, and to validate on, without."""

    train: ImageSamples
    val: ImageSamples
    classes: tuple[str, ...]


def open_splits(
    experiment: "Experiment", checkpoints: Path, *, most_validated: int | None = None
) -> Splits:
    """Open both splits of an experiment's images, without those that its quarantine names.

    Others that cannot be decoded are added to ``quarantine.csv`` in the folder `checkpoints` when
    they are met; training replaces them, validation leaves them out. `most_validated` takes so many
    images of the validation split, evenly spread.

    Raises NaturalImagesDataError where the images are not what the experiment says, or where the
    two splits are the same images or have other classes.
    """
    data, augment = experiment.data, experiment.augment
    train = open_images(data.path, split="train", classes=data.classes)
    val = open_images(data.path, split="val", classes=data.classes)
    _check(data.path, train, val)
    chosen = _indices(experiment, val, "val")
    if most_validated is not None and len(chosen) > most_validated:
        chosen = chosen[np.linspace(0, len(chosen) - 1, most_validated).astype(np.int64)]
    table = Path(checkpoints) / QUARANTINE
    return Splits(
        train=ImageSamples(
            train,
            _indices(experiment, train, "train"),
            train_transform(augment, data.size),
            quarantine=RunQuarantine(table, "train"),
        ),
        val=ImageSamples(
            val,
            chosen,
            eval_transform(augment, data.size),
            in_processes=len(chosen) > FEW,
            replaces_bad=False,
            quarantine=RunQuarantine(table, "val"),
        ),
        classes=tuple(train.classes),
    )


def identity(experiment: "Experiment", splits: Splits) -> dict[str, str]:
    """What makes a run this one, beside its recipe: images, augmentation, model, masking."""
    source, indices = splits.train.source, splits.train.indices
    images = hashlib.sha256(np.asarray(source.labels[indices], np.int64).tobytes())
    for index in indices:
        images.update(source.name(index).encode(errors="surrogateescape") + b"\n")
    model = experiment.model
    return {
        "images": images.hexdigest()[:16],
        "size": str(experiment.data.size),
        "augment": repr(experiment.augment),
        "options": json.dumps({"name": model.name, **model.options}, sort_keys=True, default=str),
        "task": experiment.task,
        "shifted_positions": str(experiment.shifted_positions),
    }


class ValidationBatches:
    """All samples in order, as often as a run validates, read as its recipe says.

    Those that cannot be decoded are left out. After the last it is said how many images of the run
    could not, where they have become more.
    """

    def __init__(self, experiment: "Experiment", samples: ImageSamples) -> None:
        self._samples, self._augment, self._recipe = samples, experiment.augment, experiment.recipe
        self._path, self._told = experiment.data.path, 0
        at_once = experiment.data.images_at_once or VALIDATED_AT_ONCE
        self._size = min(self._recipe.batch_size, at_once, VALIDATED_AT_ONCE)
        self._batches: RepeatedReading | None = None

    def on(self, device: torch.device) -> Iterator[dict[str, Tensor]]:
        """Yield images (b, 3, size, size) normalised and classes (b,), on `device`.

        Raises NaturalImagesDataError where too many of the images cannot be decoded.
        """
        count, seen = len(self._samples), 0
        if self._batches is None:
            starts = range(0, count, self._size)
            items = [(np.arange(start, min(start + self._size, count)), 0) for start in starts]
            self._batches = RepeatedReading(
                self._samples,
                items,
                workers=self._recipe.num_workers,
                pin=device.type == "cuda",
            )
        for batch in self._batches:
            if not len(batch["classes"]):
                continue
            seen += len(batch["classes"])
            moved = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            yield {**moved, "images": normalise(moved["images"], self._augment)}
        # Each process that reads has judged its own share, which may be too small to tell.
        check_share(count - seen, count, count, f"{self._path}: validation images do not decode")
        self._tell()

    def _tell(self) -> None:
        table = self._samples.quarantine
        if table is not None and (total := table.total()) > self._told:
            self._told = total
            log.warning("%d images of this run could not be decoded: %s", total, table.path)


def _check(path: Path, train: ImageSource, val: ImageSource) -> None:
    """Raise NaturalImagesDataError where `val` would not validate what `train` trains."""
    places = [{place.resolve() for place in source.places} for source in (train, val)]
    if places[0] == places[1] and len(train) == len(val):
        raise NaturalImagesDataError(
            f"{path}: expected images to train on and others to validate on, got the same "
            f"{len(train)} for both. Move some to a folder of their own, train/<class>/* and "
            "val/<class>/*, or name shards train-* and val-*"
        )
    if train.classes != val.classes:
        different = sorted(set(train.classes) ^ set(val.classes))
        raise NaturalImagesDataError(
            f"{path}: expected the same classes in 'train' and 'val', got {len(train.classes)} "
            f"and {len(val.classes)}: {different[:5] or 'the same in another order'}"
            f"{' and more' if len(different) > 5 else ''}. Complete the data, or set "
            "data.classes where shards number their classes"
        )


def _indices(experiment: "Experiment", source: ImageSource, split: Split) -> np.ndarray:
    folder = experiment.data.quarantine
    return good_indices(source, folder / f"{split}.csv" if folder is not None else None)
