"""The numbers of a training run."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

Precision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class Recipe:
    """What a run trains with; the defaults are the published JUMP-CP recipe.

    epochs, warmup_epochs
        Passes over the data, and how many of them the learning rate rises from 0.
    batch_size
        Samples an optimiser step sees, over all processes and accumulated parts.
    base_lr, lr_scale_batch, min_lr
        AdamW's peak learning rate is ``base_lr * batch_size / lr_scale_batch``; a cosine takes it
        to `min_lr`, which is not scaled.
    weight_decay, weight_decay_end
        Ends of the cosine that weight decay follows; equal for a constant one.
    betas
        AdamW's.
    clip_grad_norm
        Largest norm of the whole gradient; None leaves gradients as they are.
    precision
        "no" is float32; "bf16" and "fp16" are mixed, weights and optimiser in float32.
    accumulation
        Parts that each process splits its share of the batch into, to save memory.
    num_workers
        Threads that read batches ahead.
    checkpoint_every_steps
        A killed run repeats at most this many steps.
    seed
        Fixes order of the samples, augmentation, dropout and channel sampling.
    """

    epochs: int = 100
    warmup_epochs: int = 10
    batch_size: int = 256
    base_lr: float = 1e-3
    lr_scale_batch: int = 256
    min_lr: float = 1e-6
    weight_decay: float = 0.04
    weight_decay_end: float = 0.4
    betas: tuple[float, float] = (0.9, 0.999)
    clip_grad_norm: float | None = None
    precision: Precision = "no"
    accumulation: int = 1
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
        self._check("base_lr", _is_number(self.base_lr) and self.base_lr > 0, "a number above 0")
        for key in ("min_lr", "weight_decay", "weight_decay_end"):
            value = self._value(key)
            self._check(key, _is_number(value) and value >= 0, "a number from 0")
        self._check(
            "warmup_epochs", self.warmup_epochs <= self.epochs, f"at most epochs ({self.epochs})"
        )
        self._check("min_lr", self.min_lr <= self.lr, f"at most the peak rate ({self.lr:g})")
        clip = self.clip_grad_norm
        self._check(
            "clip_grad_norm", clip is None or (_is_number(clip) and clip > 0), "None or above 0"
        )
        precisions = get_args(Precision)
        self._check("precision", self.precision in precisions, f"one of {list(precisions)}")
        betas = self.betas
        self._check(
            "betas",
            isinstance(betas, tuple | list)
            and len(betas) == 2
            and all(_is_number(beta) and 0 <= beta < 1 for beta in betas),
            "two numbers in [0, 1)",
        )
        object.__setattr__(self, "betas", tuple(betas))

    @property
    def lr(self) -> float:
        """Peak learning rate at this batch size."""
        return self.base_lr * self.batch_size / self.lr_scale_batch

    def _value(self, key: str) -> Any:
        return getattr(self, key)

    def _check(self, key: str, valid: bool, expected: str) -> None:
        if valid:
            return
        value = self._value(key)
        message = f"Recipe key '{key}': expected {expected}, got {value!r}."
        if isinstance(value, str) and key != "precision":
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
