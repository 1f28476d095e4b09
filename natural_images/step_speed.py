"""Images a second, memory and GPU-hours of classification and MAE experiments on this device.

``python -m natural_images.step_speed config/imagenet/fastvim_*.yaml`` takes steps of the training
engine as each file says, on made-up images and without waiting for data, and prints a row of a
Markdown table for each as soon as it is measured. Hours are those of its epochs of ImageNet-1k on
this one device.
"""

import argparse
import gc
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fastvim.training.plan import StepPlan
from fastvim.training.processes import start_accelerator
from fastvim.training.step import Loss, OnBatch, Stepper
from natural_images.batches import share_batch
from natural_images.classification.architectures import create_classifier
from natural_images.classification.batch_augment import BatchAugment
from natural_images.classification.train import soft_cross_entropy
from natural_images.errors import NaturalImagesError, blamed_on
from natural_images.experiment import load_experiment
from natural_images.masked.encoder import untrained_classifier
from natural_images.masked.pretrain import Objective, create_autoencoder
from natural_images.masked.probe import LinearProbe

if TYPE_CHECKING:
    from natural_images.experiment import Experiment

IMAGES = 1_281_167
"""Training images of ImageNet-1k."""
WARM_UP_STEPS = 3
"""Steps that compile and tune, and so do not count."""


@dataclass(frozen=True)
class Speed:
    """Images that a step takes at once, its mean time, and the most memory that tensors took."""

    images: int
    seconds: float
    memory_gib: float

    @property
    def images_per_second(self) -> float:
        """Images a second."""
        return self.images / self.seconds


def measure(experiment: "Experiment", steps: int) -> Speed:
    """Take `steps` optimiser steps of an experiment, each of as many images as it takes at once.

    A run that accumulates parts takes one optimiser step for several of them, so that it is a
    little faster. Weights that a run would start from are not read, since speed does not depend on
    them. Memory is 0 without a GPU. Raises FloatingPointError where a loss is not finite.
    """
    shared = share_batch(experiment.recipe, experiment.data.images_at_once, processes=1)
    images = shared.batch_size // shared.accumulation
    recipe = replace(
        shared,
        batch_size=images,
        accumulation=1,
        steps=WARM_UP_STEPS + steps,
        warmup_steps=0,
        # Speed does not depend on the rate, and no warm-up could make a full one safe.
        base_lr=1e-6,
        lr_scale_batch=images,
        min_lr=0.0,
        warmup_lr=0.0,
    )
    accelerator = start_accelerator(recipe.precision)
    device, on_gpu = accelerator.device, accelerator.device.type == "cuda"
    if on_gpu:
        gc.collect()  # the model before this one, which its optimiser and graph refer to
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    model, loss, on_batch = _subject(experiment, device)
    stepper = Stepper(
        model, StepPlan(recipe, images, 1, 0), accelerator, loss=loss, on_batch=on_batch
    )
    batches = repeat(_made_up(experiment, images, pin=on_gpu))
    if stepper.records:
        stepper.record(next(batches))
    started = 0.0
    for step in range(WARM_UP_STEPS + steps):
        if step == WARM_UP_STEPS:
            _synchronise(device)
            started = time.perf_counter()
        stepper.take(step, batches)
    _synchronise(device)
    seconds = (time.perf_counter() - started) / steps
    stepper.release()
    memory = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
    return Speed(images, seconds, memory)


def _subject(
    experiment: "Experiment", device: torch.device
) -> tuple[nn.Module, Loss, OnBatch | None]:
    """The experiment's model, and what the engine calls, as its command would build them."""
    classes = experiment.data.classes or 1000
    torch.manual_seed(experiment.recipe.seed)
    # Drawing hundreds of millions of weights takes a processor longer than the steps.
    with device:
        if experiment.task == "pretrain":
            autoencoder = create_autoencoder(experiment)
            objective = Objective(experiment, autoencoder)
            return autoencoder, objective.loss, objective.prepare
        model: nn.Module
        if experiment.task == "supervised":
            model = create_classifier(
                experiment.model.name,
                num_classes=classes,
                size=experiment.data.size,
                options=experiment.model.options,
            )
        else:
            model = untrained_classifier(experiment, classes)
            if experiment.task == "probe":
                model = LinearProbe(model, classes)
    return model, soft_cross_entropy, BatchAugment(experiment.augment, classes)


def _made_up(experiment: "Experiment", images: int, *, pin: bool) -> dict[str, Tensor]:
    size, classes = experiment.data.size, experiment.data.classes or 1000
    batch = {
        "images": torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8),
        "classes": torch.randint(0, classes, (images,)),
    }
    return {name: tensor.pin_memory() if pin else tensor for name, tensor in batch.items()}


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table with a row for each file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+", help="experiments, as in config/imagenet")
    parser.add_argument("--steps", type=int, default=20, help="that are timed (default: 20)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change all of the files, data.images_at_once=64 say",
    )
    chosen = parser.parse_args(arguments)
    if chosen.steps < 1:
        parser.error(f"--steps: expected a whole number from 1, got {chosen.steps}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{device}, torch {torch.__version__}\n")
    _row("file", "images at once", "ms a step", "images/s", "GiB", "hours")
    _row("---", *["---:"] * 5)
    failed = False
    for file in chosen.files:
        try:
            experiment = load_experiment(file, chosen.set)
            with blamed_on(file):
                speed = measure(experiment, chosen.steps)
        except (NaturalImagesError, RuntimeError) as error:  # memory runs out as the latter
            failed = True
            told = isinstance(error, NaturalImagesError)
            print(error if told else f"{file}: {error}", file=sys.stderr)
            continue
        recipe = experiment.recipe
        seen = recipe.epochs * IMAGES
        if recipe.steps is not None:
            seen = recipe.steps * recipe.batch_size
        hours = seen / speed.images_per_second / 3600
        _row(
            str(file),
            f"{speed.images}",
            f"{1000 * speed.seconds:.0f}",
            f"{speed.images_per_second:.0f}",
            f"{speed.memory_gib:.1f}",
            f"{hours:.0f}",
        )
    if failed:
        sys.exit(1)


def _row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
