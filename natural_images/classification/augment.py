"""Augmentation as published: what is done, and the part of it that is done to single images."""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor

from natural_images.errors import NaturalImagesValueError

Interpolation = Literal["bicubic", "bilinear", "random"]
EraseMode = Literal["pixel", "const", "rand"]


@dataclass(frozen=True)
class Augment:
    """What is done to images; the defaults are the published supervised ImageNet recipe.

    crop_scale
        Smallest and largest area of the random crop, as a share of the image.
    hflip
        Probability of a horizontal flip.
    color_jitter
        Strength of changes of brightness, contrast and saturation; 0 is none. Without effect when
        `rand_augment` is set, as in the published runs.
    rand_augment
        timm's name of a RandAugment policy; None is none.
    interpolation
        Of all resizing: "bicubic", "bilinear", or "random" (one of them) in training.
    erase_probability, erase_mode
        Random erasing of a rectangle, filled with noise by "pixel", with zero by "const", with one
        random colour by "rand".
    mixup, cutmix
        Alpha of their beta distributions; 0 switches one off.
    mixup_switch
        Share of batches that are cut and not mixed, where both are on.
    label_smoothing
        Share of the target that is spread over all classes.
    eval_crop
        Side of the central crop in evaluation, as a share of the resized shorter side.
    mean, std
        Of the pixels by channel, on a scale of 0 to 1.
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)
    hflip: float = 0.5
    color_jitter: float = 0.3
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    interpolation: Interpolation = "bicubic"
    erase_probability: float = 0.25
    erase_mode: EraseMode = "pixel"
    mixup: float = 0.8
    cutmix: float = 1.0
    mixup_switch: float = 0.5
    label_smoothing: float = 0.1
    eval_crop: float = 0.875
    mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, float, float] = IMAGENET_DEFAULT_STD

    def __post_init__(self) -> None:
        for key in ("crop_scale", "mean", "std"):
            value = getattr(self, key)
            length = 2 if key == "crop_scale" else 3
            valid = isinstance(value, tuple | list) and len(value) == length
            self._check(key, valid and all(map(_is_number, value)), f"{length} numbers")
            object.__setattr__(self, key, tuple(map(float, value)))
        low, high = self.crop_scale
        self._check("crop_scale", 0 < low <= high <= 1, "two shares, 0 < smallest <= largest <= 1")
        self._check("std", all(value > 0 for value in self.std), "3 numbers above 0")
        for key in ("hflip", "erase_probability", "mixup_switch"):
            value = getattr(self, key)
            self._check(key, _is_number(value) and 0 <= value <= 1, "a probability from 0 to 1")
        for key in ("color_jitter", "mixup", "cutmix"):
            value = getattr(self, key)
            self._check(key, _is_number(value) and value >= 0, "a number from 0, which is off")
        smoothing = self.label_smoothing
        self._check("label_smoothing", _is_number(smoothing) and 0 <= smoothing < 1, "in [0, 1)")
        crop = self.eval_crop
        self._check("eval_crop", _is_number(crop) and 0 < crop <= 1, "a share in (0, 1]")
        for key, kind in (("interpolation", Interpolation), ("erase_mode", EraseMode)):
            known = list(get_args(kind))
            self._check(key, getattr(self, key) in known, f"one of {known}")
        self._check("rand_augment", _is_policy(self.rand_augment), "null or a policy 'rand-m9-…'")

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed, which is done in pairs."""
        return self.mixup > 0 or self.cutmix > 0

    def _check(self, key: str, valid: bool, expected: str) -> None:
        if not valid:
            raise NaturalImagesValueError(
                f"Augment key '{key}': expected {expected}, got {getattr(self, key)!r}"
            )


class Transform(Protocol):
    """From a decoded image to the pixels that a model's batch is made of."""

    @property
    def random(self) -> bool:
        """Whether the result depends on the seed."""
        ...

    def __call__(self, image: Image.Image, seed: int = 0) -> Tensor:
        """Transform an RGB `image` to (3, size, size) uint8, all random choices from `seed`."""
        ...


def train_transform(augment: Augment, size: int) -> Transform:
    """Random crop, flip, and RandAugment or colour jitter, at `size` pixels, by timm.

    It draws from the generators of the process, which it sets and restores: not for threads.
    """
    steps = create_transform(
        _checked(size),
        is_training=True,
        scale=augment.crop_scale,
        hflip=augment.hflip,
        color_jitter=augment.color_jitter or None,  # type: ignore[arg-type]
        auto_augment=augment.rand_augment,
        interpolation=augment.interpolation,
        mean=augment.mean,
        std=augment.std,
        normalize=False,
    )
    for step in steps.transforms:
        for op in getattr(step, "ops", ()):
            if op.name.startswith("Posterize"):
                op.aug_fn = _posterize
    return _Timm(steps, random=True)


def eval_transform(augment: Augment, size: int) -> Transform:
    """Resize the shorter side to ``size / eval_crop`` and cut `size` pixels from the middle."""
    interpolation = augment.interpolation
    return _Timm(
        create_transform(
            _checked(size),
            is_training=False,
            crop_pct=augment.eval_crop,
            interpolation="bicubic" if interpolation == "random" else interpolation,
            normalize=False,
        ),
        random=False,
    )


def normalise(images: Tensor, augment: Augment) -> Tensor:
    """Scale `images` (…, 3, h, w) uint8 to float32 by the mean and standard deviation."""
    mean, std = (_of_channels(value, images.device) for value in (augment.mean, augment.std))
    return (images.float() - mean) / std


@cache  # Putting numbers on a GPU waits for all that it was given to do.
def _of_channels(shares: tuple[float, float, float], device: torch.device) -> Tensor:
    return torch.tensor(shares, dtype=torch.float32, device=device).view(3, 1, 1) * 255


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Set the generators of Python, NumPy and PyTorch (on the CPU and `device`), and restore them.

    timm draws from all three.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - timm's generator
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)
        for on in cuda:
            torch.cuda.default_generators[on.index].manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@dataclass(frozen=True)
class _Timm:
    """A transform of timm's whose random choices follow a seed."""

    steps: Any
    random: bool

    def __call__(self, image: Image.Image, seed: int = 0) -> Tensor:
        if not self.random:
            return self.steps(image)
        with seeded(seed):
            return self.steps(image)


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keep the upper `bits` of every pixel, none of them too.

    timm's increasing policies keep none at the greatest magnitude, 10, which m9-mstd0.5 draws one
    time in forty. Older versions of Pillow made such an image black, newer ones raise.
    """
    return ImageOps.posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)


def _checked(size: int) -> int:
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise NaturalImagesValueError(f"size: expected a whole number of pixels, got {size!r}")
    return size


def _is_policy(value: Any) -> bool:
    if value is None:
        return True
    try:
        return value.startswith("rand") and rand_augment_transform(value, {}) is not None
    # timm checks its policies by assertions.
    except Exception:
        return False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
