"""Learning rate and weight decay by step: linear warm-up, then half a cosine, a line or steps."""

from collections.abc import Sequence

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
    warmup = _warmup(warmup_start, start, warmup_steps, steps, endpoint=warmup_endpoint)
    phase = np.pi * _progress(steps - warmup_steps)
    return np.concatenate([warmup, end + 0.5 * (start - end) * (1 + np.cos(phase))])


def linear_schedule(
    start: float,
    end: float,
    *,
    steps: int,
    warmup_steps: int = 0,
    warmup_start: float = 0.0,
    warmup_endpoint: bool = True,
) -> np.ndarray:
    """The same with a straight line in place of the cosine: "poly" of power 1."""
    warmup = _warmup(warmup_start, start, warmup_steps, steps, endpoint=warmup_endpoint)
    return np.concatenate([warmup, start + (end - start) * _progress(steps - warmup_steps)])


def step_schedule(
    start: float,
    *,
    milestones: Sequence[int],
    steps: int,
    warmup_steps: int = 0,
    warmup_start: float = 0.0,
    warmup_endpoint: bool = True,
) -> np.ndarray:
    """The same warm-up, then `start`, a tenth of it after each number of steps in `milestones`."""
    warmup = _warmup(warmup_start, start, warmup_steps, steps, endpoint=warmup_endpoint)
    passed = np.searchsorted(np.sort(milestones), np.arange(warmup_steps, steps), side="right")
    return np.concatenate([warmup, start * 0.1**passed])


def _warmup(start: float, end: float, warmup: int, steps: int, *, endpoint: bool) -> np.ndarray:
    if not 0 <= warmup <= steps:
        raise ValueError(f"schedule: expected 0 <= warmup_steps <= steps, got {warmup} of {steps}")
    return np.linspace(start, end, warmup, endpoint=endpoint)


def _progress(steps: int) -> np.ndarray:
    return np.arange(steps) / max(steps, 1)
