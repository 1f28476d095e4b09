"""Learning rate and weight decay by step: linear warm-up, then half a cosine."""

import numpy as np


def cosine_schedule(
    start: float,
    end: float,
    *,
    steps: int,
    warmup_steps: int = 0,
    warmup_start: float = 0.0,
    warmup_endpoint: bool = True,
) -> np.ndarray:
    """Values for `steps` optimiser steps, shape (steps,) float64.

    The first `warmup_steps` values rise linearly from `warmup_start` to `start`, both included; the
    rest follow ``end + (start - end) * (1 + cos(pi * i / n)) / 2`` for i = 0 … n - 1. So `start`
    occurs twice and `end` is approached but not reached, as in the published supervised schedules.
    A warm-up of one step is `warmup_start` alone.

    Without `warmup_endpoint` the warm-up stops one increment below `start`, which then occurs once.
    That is MAE's schedule (He et al. 2022), used for pre-training, fine-tuning and linear probing.
    """
    if not 0 <= warmup_steps <= steps:
        raise ValueError(
            f"cosine_schedule: expected 0 <= warmup_steps <= steps, got {warmup_steps} of {steps}"
        )
    warmup = np.linspace(warmup_start, start, warmup_steps, endpoint=warmup_endpoint)
    falling = steps - warmup_steps
    phase = np.pi * np.arange(falling) / max(falling, 1)
    return np.concatenate([warmup, end + 0.5 * (start - end) * (1 + np.cos(phase))])
