"""Pre-train an encoder without labels: fill in removed patches (MAE, He et al. 2022)."""

import csv
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fastvim import create_model
from fastvim.files import atomic_path
from fastvim.masked_autoencoder import MaskedAutoencoder
from fastvim.training import fit
from natural_images.batches import launched_processes, share_batch
from natural_images.classification.augment import normalise
from natural_images.errors import NaturalImagesValueError, blamed_on
from natural_images.experiment import expect_no_averaging, expect_task
from natural_images.masked.reconstruction import draw, reconstruct
from natural_images.output_folder import check_places
from natural_images.splits import Splits, ValidationBatches, identity, open_splits

if TYPE_CHECKING:
    from natural_images.experiment import Experiment

log = logging.getLogger(__name__)

DESCRIPTION, PICTURES = "pretraining.json", "pictures"
VALIDATED = 2048
"""Validation images whose loss is taken after every epoch."""
DRAWN = 8
"""Validation images that are drawn."""


def pretrain(experiment: "Experiment", output: Path, checkpoints: Path) -> None:
    """Train a masked autoencoder and write its folder, which `finetune` and `probe` start from.

    Which patches of an image are removed follows from the seeds of the engine: a killed run that
    is called again in the same way resumes, and ends with the same weights.

    Parameters
    ----------
    experiment
        Of task "pretrain". Labels are not looked at.
    output
        Gets ``config.json`` and ``model.safetensors`` as fastvim writes them, encoder and decoder,
        and ``pretraining.json``; appears when training has ended.
    checkpoints
        Folder of checkpoints and curves, and of ``pictures/epoch_<n>.png``: eight validation images
        with removed patches filled in, every ``masking.pictures_every`` epochs and at the end.
        ``validation.csv`` has the loss on validation images with the same patches removed always;
        ``quarantine.csv`` names images of either split that could not be decoded.

    Raises
    ------
    NaturalImagesValueError
        The experiment is for another command, a value in it does not fit model or machine, or
        `output` would replace what is no model.
    NaturalImagesDataError
        The images are not what the experiment says.
    """
    expect_task(experiment, "pretrain")
    expect_no_averaging(experiment)
    check_places(output, checkpoints)
    splits = open_splits(experiment, checkpoints, most_validated=VALIDATED)
    torch.manual_seed(experiment.recipe.seed)
    model = create_autoencoder(experiment)
    recipe = share_batch(experiment.recipe, experiment.data.images_at_once, launched_processes())
    log.info(
        "%s: %d parameters, %d training images",
        experiment.model.name,
        sum(parameter.numel() for parameter in model.parameters()),
        len(splits.train),
    )
    objective = Objective(experiment, model)
    validation = _Validation(experiment, objective, splits, checkpoints)
    facts = {**identity(experiment, splits), "mask_ratio": experiment.masking.mask_ratio}
    with blamed_on(experiment.path):
        last = fit(
            model,
            splits.train,
            recipe,
            loss=objective.loss,
            directory=checkpoints,
            validate=validation,
            on_batch=objective.prepare,
            identity=facts,
        )
    if last is not None:
        _save(model, experiment, output)


class Objective:
    """What pre-training minimises: `on_batch` and `loss` of the engine."""

    def __init__(self, experiment: "Experiment", model: MaskedAutoencoder) -> None:
        self._experiment, self._tokens = experiment, model.grid[0] * model.grid[1]

    def prepare(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Normalise images, and draw the noise that decides which patches are removed."""
        images = normalise(batch["images"], self._experiment.augment)
        return {"images": images, "noise": self.noise(images, generator)}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error on removed patches."""
        ratio = self._experiment.masking.mask_ratio
        return model(batch["images"], ratio, batch["noise"])[0], {}

    def noise(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(b, token) uniform noise on the images' device; the patches with the least are kept."""
        noise = torch.rand(len(images), self._tokens, generator=generator)
        return noise.to(images.device, non_blocking=True)


class _Validation:
    """The same loss on validation images, and now and then a picture of some of them."""

    def __init__(
        self, experiment: "Experiment", objective: Objective, splits: Splits, directory: Path
    ) -> None:
        self._experiment, self._objective = experiment, objective
        self._samples, self._directory = splits.val, directory
        self._batches = ValidationBatches(experiment, splits.val)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        assert isinstance(model, MaskedAutoencoder)
        ratio = self._experiment.masking.mask_ratio
        epoch = _epochs_done(self._directory / "train.csv")
        draws = epoch % self._experiment.masking.pictures_every == 0
        draws = draws or epoch in (1, self._experiment.recipe.epochs)
        device = next(model.parameters()).device
        generator = torch.Generator().manual_seed(self._experiment.recipe.seed)
        total, seen = 0.0, 0
        for batch in self._batches.on(device):
            noise = self._objective.noise(batch["images"], generator)
            loss, _, _ = model(batch["images"], ratio, noise)
            total += float(loss) * len(noise)
            seen += len(noise)
        if draws:
            self._draw(model, device, epoch)
        return {"loss": total / seen}

    def _draw(self, model: MaskedAutoencoder, device: torch.device, epoch: int) -> None:
        samples, masking = self._samples, self._experiment.masking
        # Images lie class by class; these are spread over all of them.
        chosen = np.linspace(0, len(samples) - 1, min(DRAWN, len(samples))).astype(np.int64)
        pixels = samples.get_batch(chosen, 0)["images"]
        if not len(pixels):  # none of them can be decoded
            return
        images = normalise(pixels.to(device), self._experiment.augment)
        generator = torch.Generator().manual_seed(self._experiment.recipe.seed)
        shown = reconstruct(
            model,
            images,
            self._objective.noise(images, generator),
            mask_ratio=masking.mask_ratio,
            augment=self._experiment.augment,
        )
        output = self._directory / PICTURES / f"epoch_{epoch:04d}.png"
        draw(shown, output, title=f"Epoch {epoch}: {masking.mask_ratio:.0%} of the patches removed")


def create_autoencoder(experiment: "Experiment") -> MaskedAutoencoder:
    """Build the experiment's untrained model, or raise NaturalImagesValueError."""
    name, size = experiment.model.name, experiment.data.size
    try:
        model = create_model(name, **{"img_size": size, **experiment.model.options})
    except (TypeError, ValueError) as error:
        raise NaturalImagesValueError(f"{experiment.path}: model: {error}") from error
    if not isinstance(model, MaskedAutoencoder):
        raise NaturalImagesValueError(
            f"{experiment.path}: model.name: expected a masked autoencoder, "
            f"fastmaskvim_base_patch16_224 say, got {name!r}"
        )
    if size % model.patch_size:
        raise NaturalImagesValueError(
            f"{experiment.path}: data.size: expected a multiple of the patches' "
            f"{model.patch_size} px, got {size}"
        )
    return model


def _save(model: MaskedAutoencoder, experiment: "Experiment", output: Path) -> None:
    described: dict[str, Any] = {
        "model": experiment.model.name,
        "mask_ratio": experiment.masking.mask_ratio,
        "epochs": experiment.recipe.epochs,
        "size": experiment.data.size,
        "mean": experiment.augment.mean,
        "std": experiment.augment.std,
    }
    with atomic_path(output) as temporary:
        model.save_pretrained(temporary)
        (temporary / DESCRIPTION).write_text(json.dumps(described, indent=2) + "\n")


def _epochs_done(curves: Path) -> int:
    """Epoch of the last row of the training curves, which the engine writes before it validates."""
    with curves.open("rb") as file:
        header = file.readline().decode()
        file.seek(max(len(header), curves.stat().st_size - 4096))
        last = file.read().decode().splitlines()[-1]
    names, values = csv.reader([header.strip(), last])
    return int(values[names.index("epoch")])
