"""Train a classifier of images, from scratch or from other weights."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvim.training import fit
from natural_images.batches import launched_processes, share_batch
from natural_images.classification.architectures import create_classifier
from natural_images.classification.batch_augment import BatchAugment
from natural_images.classification.model_files import save_model
from natural_images.errors import blamed_on
from natural_images.output_folder import check_places
from natural_images.splits import Splits, ValidationBatches, identity, open_splits

if TYPE_CHECKING:
    from natural_images.experiment import Experiment

log = logging.getLogger(__name__)


def train(experiment: "Experiment", output: Path, checkpoints: Path) -> None:
    """Train a new classifier on labelled images and write its folder.

    A killed run that is called again in the same way resumes, and ends with the same weights.

    Parameters
    ----------
    experiment
        Of task "supervised".
    output
        The model folder; appears when training has ended, with averaged weights beside the plain
        ones if ``recipe.ema_decay`` asks for them.
    checkpoints
        Folder of checkpoints and curves. ``validation.csv`` has loss and top-1 of every epoch, and
        the same with ``ema_`` of the averaged weights; ``quarantine.csv`` names images of either
        split that could not be decoded, which training replaces and validation leaves out.

    Raises
    ------
    NaturalImagesValueError
        The experiment is for another command, a value in it does not fit model or machine, or
        `output` would replace what is no model.
    NaturalImagesDataError
        The images are not what the experiment says.
    """
    from natural_images.experiment import expect_task

    expect_task(experiment, "supervised")
    check_places(output, checkpoints)
    splits = open_splits(experiment, checkpoints)
    torch.manual_seed(experiment.recipe.seed)
    model = create_classifier(
        experiment.model.name,
        num_classes=len(splits.classes),
        size=experiment.data.size,
        options=experiment.model.options,
    )
    last = fit_classifier(model, splits, experiment, checkpoints)
    if last is not None:
        save_classifier(model, splits, experiment, output, ema=averaged(experiment, last))


def fit_classifier(
    model: nn.Module,
    splits: Splits,
    experiment: "Experiment",
    checkpoints: Path,
    *,
    initial: str | None = None,
) -> Path | None:
    """Train `model`, images (b, 3, h, w) to logits (b, class), in place.

    `initial` tells the weights that it starts from, so that no other run is resumed. Returns the
    last checkpoint on the main process, None on the others.
    """
    recipe = share_batch(
        experiment.recipe,
        experiment.data.images_at_once,
        launched_processes(),
        in_pairs=experiment.augment.mixes,
    )
    log.info(
        "%s: %d parameters, %d of them trained; %d training and %d validation images, %d classes",
        experiment.model.name,
        sum(parameter.numel() for parameter in model.parameters()),
        sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        len(splits.train),
        len(splits.val),
        len(splits.classes),
    )

    validation = ValidationBatches(experiment, splits.val)

    def validate(model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        loss, right, seen = 0.0, 0, 0
        for batch in validation.on(device):
            logits = model(batch["images"]).float()
            loss += float(F.cross_entropy(logits, batch["classes"], reduction="sum"))
            right += int((logits.argmax(dim=1) == batch["classes"]).sum())
            seen += len(logits)
        return {"loss": loss / seen, "top1": right / seen}

    facts = identity(experiment, splits)
    if initial is not None:
        facts["initial"] = initial
    with blamed_on(experiment.path):
        return fit(
            model,
            splits.train,
            recipe,
            loss=soft_cross_entropy,
            directory=checkpoints,
            validate=validate,
            on_batch=BatchAugment(experiment.augment, len(splits.classes)),
            identity=facts,
        )


def soft_cross_entropy(
    model: nn.Module, batch: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross entropy with mixed and smoothed targets (b, class), and accuracy on their largest."""
    logits = model(batch["images"]).float()
    targets = batch["targets"]
    right = (logits.argmax(dim=1) == targets.argmax(dim=1)).float().mean()
    return F.cross_entropy(logits, targets), {"accuracy": right}


def averaged(experiment: "Experiment", checkpoint: Path) -> dict[str, Tensor] | None:
    """The averaged weights of a run that keeps them."""
    if experiment.recipe.ema_decay is None:
        return None
    from fastvim.training import averaged_weights

    return averaged_weights(checkpoint)


def save_classifier(
    model: nn.Module,
    splits: Splits,
    experiment: "Experiment",
    output: Path,
    *,
    ema: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a classifier's folder with what its evaluation needs to know."""
    save_model(
        model,
        output,
        classes=splits.classes,
        mean=experiment.augment.mean,
        std=experiment.augment.std,
        size=experiment.data.size,
        eval_crop=experiment.augment.eval_crop,
        interpolation=experiment.augment.interpolation,
        ema=ema,
    )
