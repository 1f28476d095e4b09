"""The numbers of a training run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Precision = Literal["no", "bf16", "fp16"]
Optimizer = Literal["adamw", "sgd"]
Decay = Literal["matrices", "all"]
Schedule = Literal["cosine", "linear", "steps"]

_CHOICES = {"precision": Precision, "optimizer": Optimizer, "decay": Decay, "schedule": Schedule}


@dataclass(frozen=True)
class Recipe:
    """What a run trains with; the defaults are the published JUMP-CP recipe.

    epochs, warmup_epochs
        Passes over the data, and how many of them the learning rate rises.
    steps, warmup_steps, validate_every_steps
        The same in optimiser steps, for recipes that count those; they go before the numbers of
        epochs, and without the last the model is validated after every epoch.
    batch_size
        Samples an optimiser step sees, over all processes and accumulated parts.
    base_lr, lr_scale_batch, min_lr, warmup_lr
        The peak learning rate is ``base_lr * batch_size / lr_scale_batch``. It is reached from
        `warmup_lr`, the rate of the first step, and `schedule` takes it to `min_lr`; these two are
        not scaled.
    schedule, milestones
        "cosine", "linear", or "steps", which divides the rate by ten after each number of steps in
        `milestones` and knows no `min_lr`.
    warmup_endpoint
        Whether the warm-up ends on the peak rate; without it, one increment below, as in MAE.
    optimizer
        "adamw" or "sgd"; the latter adds weight decay to the gradient.
    betas, momentum
        AdamW's and SGD's.
    weight_decay, weight_decay_end
        Ends of the cosine that weight decay follows; equal for a constant one.
    decay
        What is decayed: "matrices", all but biases and 1-D tensors, or "all", as in MAE's
        pre-training.
    undecayed
        Parts of parameter names; what has one of them is not decayed either.
    lr_scales
        Factors on the learning rate of parameters by a part of their names.
    layer_decay
        Factor on the learning rate of every second block from the head down, as in
        `layer_decay_groups`; None lets all learn alike.
    ema_decay
        Of the exponential moving average of the weights, which is then validated beside them and
        lies in checkpoints (`averaged_weights`); None keeps none.
    clip_grad_norm
        Largest norm of the whole gradient; None leaves gradients as they are.
    precision
        "no" is float32; "bf16" and "fp16" are mixed, weights and optimiser in float32.
    accumulation
        Parts that each process splits its share of the batch into, to save memory.
    graphed
        Whether a GPU records the model's forward and backward pass before the first step and then
        replays them, so that it does not wait for the processor to launch them. For models that are
        called once before each backward pass, with tensors of one shape, and decide nothing on the
        processor, as channel sampling and gradient checkpointing do. CPUs ignore it.
    num_workers
        Threads, or processes for datasets that ask for them, in which each process reads ahead.
    checkpoint_every_steps
        A killed run repeats at most this many steps.
    seed
        Fixes order of the samples, augmentation, dropout and channel sampling.
    """

    epochs: int = 100
    warmup_epochs: int = 10
    steps: int | None = None
    warmup_steps: int | None = None
    validate_every_steps: int | None = None
    batch_size: int = 256
    base_lr: float = 1e-3
    lr_scale_batch: int = 256
    min_lr: float = 1e-6
    warmup_lr: float = 0.0
    warmup_endpoint: bool = True
    schedule: Schedule = "cosine"
    milestones: tuple[int, ...] = ()
    optimizer: Optimizer = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    weight_decay: float = 0.04
    weight_decay_end: float = 0.4
    decay: Decay = "matrices"
    undecayed: tuple[str, ...] = ()
    lr_scales: Mapping[str, float] = field(default_factory=dict)
    layer_decay: float | None = None
    ema_decay: float | None = None
    clip_grad_norm: float | None = None
    precision: Precision = "no"
    accumulation: int = 1
    graphed: bool = False
    num_workers: int = 2
    checkpoint_every_steps: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for key in (
            "epochs",
            "batch_size",
            "lr_scale_batch",
            "accumulation",
            "num_workers",
            "checkpoint_every_steps",
        ):
            self._check(key, _is_integer(self._value(key), least=1), "a whole number from 1")
        for key in ("warmup_epochs", "seed"):
            self._check(key, _is_integer(self._value(key), least=0), "a whole number from 0")
        for key, least in (("steps", 1), ("warmup_steps", 0), ("validate_every_steps", 1)):
            value = self._value(key)
            valid = value is None or _is_integer(value, least=least)
            self._check(key, valid, f"None or a whole number from {least}")
        self._check("base_lr", _is_number(self.base_lr) and self.base_lr > 0, "a number above 0")
        for key in ("min_lr", "warmup_lr", "weight_decay", "weight_decay_end"):
            value = self._value(key)
            self._check(key, _is_number(value) and value >= 0, "a number from 0")
        self._check(
            "warmup_epochs", self.warmup_epochs <= self.epochs, f"at most epochs ({self.epochs})"
        )
        if self.steps is not None and self.warmup_steps is not None:
            self._check(
                "warmup_steps", self.warmup_steps <= self.steps, f"at most steps ({self.steps})"
            )
        for key in ("min_lr", "warmup_lr"):
            below = self._value(key) <= self.lr
            self._check(key, below, f"at most the peak rate ({self.lr:g})")
        for key in ("warmup_endpoint", "graphed"):
            self._check(key, isinstance(self._value(key), bool), "true or false")
        for key, choices in _CHOICES.items():
            options = get_args(choices)
            self._check(key, self._value(key) in options, f"one of {list(options)}")
        self._check_schedule()
        self._check_names()
        betas = self.betas
        self._check(
            "betas",
            isinstance(betas, tuple | list) and len(betas) == 2 and all(map(_is_share, betas)),
            "two numbers in [0, 1)",
        )
        self._check("momentum", _is_share(self.momentum), "a number in [0, 1)")
        clip, layer, ema = self.clip_grad_norm, self.layer_decay, self.ema_decay
        self._check(
            "clip_grad_norm", clip is None or (_is_number(clip) and clip > 0), "None or above 0"
        )
        self._check(
            "layer_decay",
            layer is None or (_is_number(layer) and 0 < layer <= 1),
            "None or a number in (0, 1]",
        )
        # Its groups know which parameters are decayed by their own rule.
        self._check(
            "layer_decay", layer is None or self.decay == "matrices", "None where decay is 'all'"
        )
        self._check(
            "ema_decay", ema is None or (_is_share(ema) and ema > 0), "None or a number in (0, 1)"
        )
        object.__setattr__(self, "betas", tuple(betas))

    @property
    def lr(self) -> float:
        """Peak learning rate at this batch size."""
        return self.base_lr * self.batch_size / self.lr_scale_batch

    def _check_schedule(self) -> None:
        marks = self.milestones
        self._check(
            "milestones",
            isinstance(marks, tuple | list) and all(_is_integer(m, least=1) for m in marks),
            "a list of whole numbers from 1",
        )
        in_steps = self.schedule == "steps"
        self._check(
            "milestones",
            bool(marks) == in_steps,
            "some where schedule is 'steps'" if in_steps else "none unless schedule is 'steps'",
        )
        object.__setattr__(self, "milestones", tuple(marks))

    def _check_names(self) -> None:
        parts, scales = self.undecayed, self.lr_scales
        self._check(
            "undecayed",
            isinstance(parts, tuple | list) and all(isinstance(p, str) and p for p in parts),
            "a list of parts of parameter names",
        )
        self._check(
            "lr_scales",
            isinstance(scales, Mapping)
            and all(isinstance(p, str) and _is_number(f) and f >= 0 for p, f in scales.items()),
            "a number from 0 by part of a parameter's name",
        )
        named = bool(parts or scales)
        self._check(
            "layer_decay",
            self.layer_decay is None or not named,
            "None beside undecayed or lr_scales, which make groups of their own",
        )
        object.__setattr__(self, "undecayed", tuple(parts))
        object.__setattr__(self, "lr_scales", dict(scales))

    def _value(self, key: str) -> Any:
        return getattr(self, key)

    def _check(self, key: str, valid: bool, expected: str) -> None:
        if valid:
            return
        value = self._value(key)
        message = f"Recipe key '{key}': expected {expected}, got {value!r}."
        if isinstance(value, str) and key not in (*_CHOICES, "warmup_endpoint"):
            # YAML reads 1e-3 as a string.
            message += " Write it as a number without quotes (YAML needs 1.0e-3, not 1e-3)."
        raise ValueError(message)


def _is_integer(value: Any, *, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    # `<` is false for NaN as well as for infinity.
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
    )


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1
