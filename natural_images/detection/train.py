"""Train a detector on photographs whose objects have boxes and masks."""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastvim.training import fit
from natural_images.batches import launched_processes, share_batch
from natural_images.classification.augment import Augment, normalise
from natural_images.dense_experiment import identity
from natural_images.dense_initial import load_backbone
from natural_images.dense_run import spread
from natural_images.detection.coco import CocoImages, open_coco
from natural_images.detection.detector import (
    Detector,
    DetectorInfo,
    build_detector,
    save_detector,
)
from natural_images.detection.evaluate import check_objects, compare
from natural_images.detection.predictions import Finder
from natural_images.detection.samples import TrainingSamples
from natural_images.errors import (
    NaturalImagesDataError,
    NaturalImagesValueError,
    blamed_on,
)
from natural_images.output_folder import check_places

if TYPE_CHECKING:
    from natural_images.detection.experiment import DetectionExperiment

log = logging.getLogger(__name__)

VALIDATED = 1000
"""Validation images that are looked at while training; `evaluate` takes them all."""


def train(experiment: "DetectionExperiment", output: Path, checkpoints: Path) -> None:
    """Train a detector and write its folder.

    Annotations are all looked at beforehand. Images without an object are left out, as published,
    and so are groups (``iscrowd``). A killed run that is called again in the same way resumes, and
    ends with the same weights.

    Parameters
    ----------
    experiment
        From `natural_images.detection.experiment.load_experiment`.
    output
        The model folder; appears when training has ended.
    checkpoints
        Folder of checkpoints and curves. ``train.csv`` has every loss by name; ``validation.csv``
        ``box_AP``, ``box_AP50``, ``mask_AP`` and ``mask_AP50`` of at most 1,000 validation images,
        evenly spread, as often as the recipe says.

    Raises
    ------
    NaturalImagesValueError
        A value in the experiment does not fit model or machine, or `output` would replace what is
        no model.
    NaturalImagesDataError
        The images are not what the experiment says, or weights to start from do not fit.
    """
    check_places(output, checkpoints)
    training, validation = _open(experiment)
    model = _create(experiment, training)
    samples = TrainingSamples(training, training.with_instances(), experiment.augment)
    recipe = share_batch(experiment.recipe, experiment.data.images_at_once, launched_processes())
    log.info(
        "%s with Cascade Mask R-CNN: %d parameters; %d training images with objects (of %d) and %d "
        "validation images, %d classes",
        experiment.model.name,
        sum(parameter.numel() for parameter in model.parameters()),
        *(len(samples), len(training), len(validation), len(training.classes)),
    )
    trial = _Trial(experiment, validation)
    with blamed_on(experiment.path):
        last = fit(
            model,
            samples,
            recipe,
            loss=trial.loss,
            directory=checkpoints,
            validate=trial.validate,
            on_batch=trial.prepare,
            identity=identity(experiment, _digest(training)),
        )
    if last is not None:
        save_detector(model, output, _info(experiment, training))


class _Trial:
    """What the engine calls: batches prepared, losses, validation."""

    def __init__(self, experiment: "DetectionExperiment", validation: CocoImages) -> None:
        self._experiment, self._validation = experiment, validation
        self._colours = Augment(mean=experiment.augment.mean, std=experiment.augment.std)

    def prepare(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Normalise images."""
        return {**batch, "images": normalise(batch["images"], self._colours)}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of all losses, and each of them."""
        losses: Mapping[str, Tensor] = model(**batch)
        return losses["loss"], {key: losses[key] for key in losses if key != "loss"}

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Average precision of boxes and masks on validation images."""
        assert isinstance(model, Detector)
        recipe, images = self._experiment.recipe, self._validation
        half = recipe.precision == "bf16"
        finder = Finder(model, self._experiment.augment, "bfloat16" if half else "float32")
        indices = spread(len(images), VALIDATED)
        results: list[dict[str, Any]] = []
        for index, found in finder.find_all(images, indices, workers=recipe.num_workers):
            results += found.as_results(int(images.ids[index]), images.category_ids)
        box, mask = compare(images, indices, results)
        return {
            f"{kind}_{name}": found.numbers[name] or 0.0
            for kind, found in (("box", box), ("mask", mask))
            for name in ("AP", "AP50")
        }


def _open(experiment: "DetectionExperiment") -> tuple[CocoImages, CocoImages]:
    path, expected = experiment.data.path, experiment.data.classes
    training, validation = open_coco(path, split="train"), open_coco(path, split="val")
    here, there = (
        dict(zip(images.category_ids, images.classes, strict=True))
        for images in (training, validation)
    )
    if here != there:
        numbers = sorted(n for n in here.keys() | there.keys() if here.get(n) != there.get(n))
        raise NaturalImagesDataError(
            f"{path}: expected the same categories to train and to validate on, got others in "
            f"{training.annotations.name} than in {validation.annotations.name}: "
            + ", ".join(f"{n}: {here.get(n)} and {there.get(n)}" for n in numbers[:5])
        )
    if expected is not None and len(here) != expected:
        raise NaturalImagesDataError(
            f"{training.annotations}: expected {expected} categories, got {len(here)}. Complete "
            "the data or set data.classes"
        )
    if not len(training.with_instances()):
        raise NaturalImagesDataError(
            f"{training.annotations}: expected objects to train on, got none"
        )
    check_objects(validation, spread(len(validation), VALIDATED))
    return training, validation


def _create(experiment: "DetectionExperiment", training: CocoImages) -> Detector:
    torch.manual_seed(experiment.recipe.seed)
    try:
        model = build_detector(
            experiment.model.name,
            experiment.model.options,
            num_classes=len(training.classes),
            heads=experiment.heads,
            size=experiment.augment.size,
        )
    except (TypeError, ValueError) as error:
        raise NaturalImagesValueError(f"{experiment.path}: {error}") from error
    if experiment.initial is not None:
        load_backbone(model.backbone, experiment.initial)
    return model


def _info(experiment: "DetectionExperiment", training: CocoImages) -> DetectorInfo:
    augment = experiment.augment
    return DetectorInfo(
        classes=training.classes,
        category_ids=training.category_ids,
        mean=augment.mean,
        std=augment.std,
        size=augment.size,
        model=experiment.model.name,
        options=dict(experiment.model.options),
        heads=experiment.heads,
    )


def _digest(training: CocoImages) -> str:
    """Categories, names of images and outlines: other ones make another run."""
    found = hashlib.sha256("\n".join(training.classes).encode())
    for values in (training.files, training.first, training.labels, training.outlines.points):
        found.update(values.tobytes())
    return found.hexdigest()
