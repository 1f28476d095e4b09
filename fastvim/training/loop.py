"""The training loop of every recipe: distributed, mixed precision, resumable to the bit."""

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from torch import nn

from fastvim.training.checkpoint import CheckpointFolder
from fastvim.training.curves import Curves
from fastvim.training.plan import StepPlan
from fastvim.training.processes import start_accelerator
from fastvim.training.progress import StepProgress
from fastvim.training.reading import BatchDataset, read_ahead
from fastvim.training.recipe import Recipe
from fastvim.training.step import Loss, OnBatch, Stepper, Validate

# These decide speed and memory, not what is learned, so a run may resume with others.
_FREE_KEYS = {
    *("accumulation", "graphed", "num_workers"),
    *("checkpoint_every_steps", "validate_every_steps"),
}
# Checkpoints from before these keys lack them, and were trained as their defaults say.
_LATER_KEYS = {
    *("optimizer", "momentum", "warmup_lr", "warmup_endpoint"),
    *("decay", "layer_decay", "ema_decay", "schedule", "milestones", "undecayed", "lr_scales"),
    *("steps", "warmup_steps"),
}


def fit(
    model: nn.Module,
    dataset: BatchDataset,
    recipe: Recipe,
    *,
    loss: Loss,
    directory: Path,
    validate: Validate | None = None,
    on_batch: OnBatch | None = None,
    identity: Mapping[str, Any] | None = None,
) -> Path | None:
    """Train `model` in place, from where the run in `directory` stopped if there is one.

    Killed at any moment and called again in the same way, it ends with the same weights, on a CPU
    to the bit. A finished run only loads its weights. Under ``accelerate launch`` or ``torchrun``
    every process calls it alike, on a `directory` that all of them see.

    Parameters
    ----------
    model
        Moved to the device of its process; initialise it in the same way in every call. Parameters
        that need no gradient stay as they are; a frozen part with dropout or batch statistics must
        itself stay in evaluation mode when ``model.train()`` is called.
    dataset
        The training samples.
    recipe
        The numbers of the run.
    loss
        ``loss(model, batch) -> (scalar to minimise, {metric: scalar})``, with the same metrics in
        every step. It must call `model` itself, which may be wrapped.
    directory
        Gets ``checkpoints/``, ``train.csv``, ``validation.csv`` and ``tensorboard/``.
    validate
        ``validate(model) -> {metric: value}``, after every epoch, or as often as the recipe says,
        and at the end; on the main process, in evaluation mode and without gradients; the other
        processes wait. With ``ema_decay`` it is called once more with the averaged weights in
        `model`, and the curves get ``ema_<metric>`` too.
    on_batch
        ``on_batch(batch, generator) -> batch``: augmentation of a batch on the device, all of its
        randomness from `generator`, which lives on the CPU.
    identity
        Further facts, JSON scalars, that must be the same for a run to resume: the split, say.

    Returns
    -------
    The last checkpoint on the main process, None on the others.

    Raises
    ------
    ValueError
        The data or the processes do not fit the batch size, the directory holds another run, or
        all of its checkpoints are damaged.
    RuntimeError
        Several processes were launched that would not work together.
    FloatingPointError
        Loss or gradient became infinite or NaN; names the step.
    """
    accelerator = start_accelerator(recipe.precision)
    plan = StepPlan(recipe, len(dataset), accelerator.num_processes, accelerator.process_index)
    folder = CheckpointFolder(
        Path(directory) / "checkpoints", _fingerprint(model, plan, identity or {})
    )
    checkpoint = folder.load_latest()
    stepper = Stepper(model, plan, accelerator, loss=loss, on_batch=on_batch)
    try:
        if checkpoint is not None:
            stepper.restore(checkpoint)
        # All must have read the checkpoint before the main process replaces it.
        accelerator.wait_for_everyone()
        if checkpoint is None and accelerator.is_main_process:
            folder.save(0, stepper.state())
        first_step = 0 if checkpoint is None else checkpoint["step"]
        if first_step < plan.steps:
            _train(stepper, dataset, folder, Path(directory), first_step, validate)
        accelerator.wait_for_everyone()
    finally:
        stepper.release()
    return folder.file(plan.steps) if accelerator.is_main_process else None


def _train(
    stepper: Stepper,
    dataset: BatchDataset,
    folder: CheckpointFolder,
    directory: Path,
    first_step: int,
    validate: Validate | None,
) -> None:
    plan, accelerator = stepper.plan, stepper.accelerator
    recipe, main = plan.recipe, accelerator.is_main_process
    if stepper.records:
        # The first batch is read for this alone: nothing may be read ahead during a recording.
        first = read_ahead(dataset, islice(plan.items(first_step), 1), workers=1, pin=False)
        with closing(first):
            stepper.record(next(first))
    with ExitStack() as stack:
        batches = read_ahead(
            dataset,
            plan.items(first_step),
            workers=recipe.num_workers,
            pin=accelerator.device.type == "cuda",
        )
        stack.enter_context(closing(batches))
        progress = stack.enter_context(
            StepProgress(
                steps=plan.steps, first_step=first_step, batch_size=recipe.batch_size, enabled=main
            )
        )
        curves = stack.enter_context(Curves(directory, resumed_step=first_step)) if main else None
        arriving = progress.waiting_for(batches)
        for step in range(first_step, plan.steps):
            values = stepper.take(step, arriving)
            done = step + 1
            epoch = plan.epoch(step)
            progress.update(step=done, loss=values["loss"], lr=values["lr"])
            if curves is not None:
                speed = {"images_per_s": progress.images_per_s}
                curves.write("train", done, {"epoch": epoch, **values, **speed})
            if validate is not None and plan.validates_after(done):
                if curves is not None:
                    curves.write("validation", done, {"epoch": epoch, **stepper.validate(validate)})
                accelerator.wait_for_everyone()
                progress.restart_clock()
            saves = done % recipe.checkpoint_every_steps == 0 or done == plan.steps
            if curves is not None and saves:
                # Curves first: a resume relies on every row up to its checkpoint.
                curves.sync()
                folder.save(done, stepper.state())
                progress.restart_clock()


def _fingerprint(model: nn.Module, plan: StepPlan, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Collect what must be the same for a run to continue another, under names for an error."""
    defaults = asdict(Recipe())
    recipe = {
        key: value
        for key, value in asdict(plan.recipe).items()
        if key not in _FREE_KEYS and (key not in _LATER_KEYS or value != defaults[key])
    }
    shapes = [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]
    return {
        **recipe,
        "model": f"{type(model).__name__} {hashlib.sha256(repr(shapes).encode()).hexdigest()[:12]}",
        "samples": plan.samples,
        **identity,
    }
