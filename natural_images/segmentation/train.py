"""Train a segmenter on photographs whose every pixel has a class."""

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from fastvim.training import fit
from natural_images.batches import launched_processes, share_batch
from natural_images.classification.augment import Augment, normalise
from natural_images.dense_experiment import identity
from natural_images.dense_initial import load_backbone
from natural_images.errors import (
    NaturalImagesDataError,
    NaturalImagesValueError,
    blamed_on,
)
from natural_images.output_folder import check_places
from natural_images.segmentation.ade20k import AnnotatedImages, check_annotations, open_ade20k
from natural_images.segmentation.metrics import confusion_matrix, scores
from natural_images.segmentation.predictions import Predictor, predictions
from natural_images.segmentation.samples import SegmentationSamples
from natural_images.segmentation.segmenter import (
    Segmenter,
    SegmenterInfo,
    build_segmenter,
    save_segmenter,
)

if TYPE_CHECKING:
    from natural_images.segmentation.experiment import SegmentationExperiment

log = logging.getLogger(__name__)

FEW = 4000
"""So many images are decoded in threads before worker processes would have started."""


def train(experiment: "SegmentationExperiment", output: Path, checkpoints: Path) -> None:
    """Train a segmenter and write its folder.

    Images and annotations are all looked at beforehand. A killed run that is called again in the
    same way resumes, and ends with the same weights. On several GPUs batch statistics are those of
    all of them, as published.

    Parameters
    ----------
    experiment
        From `natural_images.segmentation.experiment.load_experiment`.
    output
        The model folder; appears when training has ended.
    checkpoints
        Folder of checkpoints and curves. ``validation.csv`` has ``miou``, ``mean_accuracy`` and
        ``pixel_accuracy`` of all validation images, as often as the recipe says.

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
    recipe = share_batch(experiment.recipe, experiment.data.images_at_once, launched_processes())
    _check(experiment, training, validation)
    log.info(
        "%s with UPerNet: %d parameters; %d training and %d validation images, %d classes",
        experiment.model.name,
        sum(parameter.numel() for parameter in model.parameters()),
        len(training),
        len(validation),
        len(training.classes),
    )
    trial = _Trial(experiment, validation)
    with blamed_on(experiment.path):
        last = fit(
            model,
            SegmentationSamples(training, experiment.augment, in_processes=len(training) > FEW),
            recipe,
            loss=trial.loss,
            directory=checkpoints,
            validate=trial.validate,
            on_batch=trial.prepare,
            identity=identity(experiment, _digest(training)),
        )
    if last is not None:
        info = SegmenterInfo(
            classes=training.classes,
            mean=experiment.augment.mean,
            std=experiment.augment.std,
            crop=experiment.augment.crop,
            model=experiment.model.name,
            options=experiment.model.options,
            heads=experiment.heads,
            test=experiment.test,
        )
        save_segmenter(model, output, info)


class _Trial:
    """What the engine calls: batches prepared, losses, validation."""

    def __init__(self, experiment: "SegmentationExperiment", validation: AnnotatedImages) -> None:
        self._experiment, self._validation = experiment, validation
        self._colours = Augment(mean=experiment.augment.mean, std=experiment.augment.std)

    def prepare(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Normalise images, and widen labels."""
        images = normalise(batch["images"], self._colours)
        return {"images": images, "labels": batch["labels"].long()}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross entropy of both heads, and the share of pixels that are right."""
        losses: Mapping[str, Tensor] = model(batch["images"], batch["labels"])
        return losses["loss"], {key: losses[key] for key in losses if key != "loss"}

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Scores of all validation images, segmented as the experiment says."""
        assert isinstance(model, Segmenter)
        source, augment = self._validation, self._experiment.augment
        predictor = Predictor(model, augment.mean, augment.std, self._experiment.test)
        classes = len(source.classes)
        confusion = torch.zeros(classes, classes, dtype=torch.int64, device=predictor.device)
        workers = self._experiment.recipe.num_workers
        for found in predictions(predictor, source, np.arange(len(source)), workers=workers):
            labels = torch.from_numpy(found.labels).to(predictor.device)
            confusion += confusion_matrix(labels, found.predicted, classes)
        result = scores(confusion, source.classes)
        return {
            "miou": result.miou,
            "mean_accuracy": result.mean_accuracy,
            "pixel_accuracy": result.pixel_accuracy,
        }


def _open(experiment: "SegmentationExperiment") -> tuple[AnnotatedImages, AnnotatedImages]:
    """Both splits, which must be two."""
    data = experiment.data
    training = open_ade20k(data.path, split="training", classes=data.classes)
    validation = open_ade20k(data.path, split="validation", classes=data.classes)
    if training.annotations == validation.annotations:
        raise NaturalImagesDataError(
            f"{data.path}: expected images to train on and others to validate on, got one folder "
            "of both. Move some: images/training, images/validation, annotations/training and "
            "annotations/validation"
        )
    return training, validation


def _check(experiment: "SegmentationExperiment", *sources: AnnotatedImages) -> None:
    """Look at all files in the main process; the others wait for it in the engine."""
    if launched_processes() == 1 or os.environ.get("RANK", "0") == "0":
        for source in sources:
            check_annotations(source, workers=experiment.recipe.num_workers)


def _create(experiment: "SegmentationExperiment", training: AnnotatedImages) -> Segmenter:
    torch.manual_seed(experiment.recipe.seed)
    try:
        model = build_segmenter(
            experiment.model.name,
            experiment.model.options,
            num_classes=len(training.classes),
            heads=experiment.heads,
            crop=experiment.augment.crop,
        )
    except (TypeError, ValueError) as error:
        raise NaturalImagesValueError(f"{experiment.path}: {error}") from error
    if experiment.initial is not None:
        load_backbone(model.backbone, experiment.initial)
    if launched_processes() > 1 and torch.cuda.is_available():
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model


def _digest(training: AnnotatedImages) -> str:
    """Names of classes and images: other ones make another run."""
    names = "\n".join((*training.classes, *(file.name for file in training.files)))
    return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()
