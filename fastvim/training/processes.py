"""Starting accelerate, with the surprises taken out."""

import os
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from fastvim.training.recipe import Precision


def start_accelerator(precision: Precision) -> Accelerator:
    """Join the processes of ``accelerate launch`` or ``torchrun``, or be the only one.

    Raises ValueError where the device has no such precision, and RuntimeError where the launcher
    started several processes that would not work together.
    """
    # Otherwise the precision of the first run in a process would hold for all later ones.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision=precision,
        # Without it, processes that torchrun starts on CPUs would each train alone.
        cpu=not torch.accelerator.is_available(),
        # The others wait while the main process validates, which may take longer than ten minutes.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=2))],
    )
    launched = int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1
    if launched != accelerator.num_processes:
        raise RuntimeError(
            f"Training: expected {launched} processes that work together (WORLD_SIZE), got "
            f"{accelerator.num_processes}. Do not start accelerate before fastvim.training.fit"
        )
    if precision == "fp16" and accelerator.scaler is None:
        raise ValueError(
            f"Recipe key 'precision': 'fp16' needs a GPU, got {accelerator.device}. "
            "Use 'bf16' or 'no'"
        )
    return accelerator
