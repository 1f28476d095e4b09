"""Augmentation of photographs and their labels as published for ADE20K."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from natural_images.errors import NaturalImagesValueError
from natural_images.segmentation.ade20k import IGNORED

CROPS_TRIED = 10
"""Further crops that are drawn where one class fills too much of a crop."""

BRIGHTNESS = 32.0
"""Greatest shift of the pixels, which go to 255."""
CONTRAST = SATURATION = (0.5, 1.5)
HUE = 36.0
"""Greatest turn of the hues in degrees."""


@dataclass(frozen=True)
class AugmentSection:
    """What is done to images in training; the defaults are the published ADE20K recipe.

    crop
        Side in px of the images that the model sees.
    scale, ratio
        An image is resized, as it is proportioned, to fit the longer and the shorter side of
        `scale` (either way up) times a number between the two of `ratio`.
    category_cap
        A crop of which one class fills more than this share of the labelled pixels is drawn again,
        up to ten times; 1 takes any.
    flip
        Probability of a horizontal flip.
    photometric
        Change brightness, contrast, saturation and hue, each of them in one of two images.
    mean, std
        Of the pixels by channel, on a scale of 0 to 1.
    """

    crop: int = 512
    scale: tuple[int, int] = (2048, 512)
    ratio: tuple[float, float] = (0.5, 2.0)
    category_cap: float = 0.75
    flip: float = 0.5
    photometric: bool = True
    mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, float, float] = IMAGENET_DEFAULT_STD

    def __post_init__(self) -> None:
        self._check("crop", _is_whole(self.crop), "a whole number of pixels")
        for key, length in (("scale", 2), ("ratio", 2), ("mean", 3), ("std", 3)):
            value = getattr(self, key)
            valid = isinstance(value, tuple | list) and len(value) == length
            self._check(key, valid and all(map(_is_number, value)), f"{length} numbers")
            object.__setattr__(self, key, tuple(value))
        self._check("scale", all(map(_is_whole, self.scale)), "2 whole numbers of pixels")
        self._check("ratio", 0 < self.ratio[0] <= self.ratio[1], "0 < smallest <= largest")
        self._check("std", all(value > 0 for value in self.std), "3 numbers above 0")
        cap, flip = self.category_cap, self.flip
        self._check("category_cap", _is_number(cap) and 0 < cap <= 1, "a share in (0, 1]")
        self._check("flip", _is_number(flip) and 0 <= flip <= 1, "a probability from 0 to 1")
        self._check("photometric", isinstance(self.photometric, bool), "true or false")

    def _check(self, key: str, valid: bool, expected: str) -> None:
        if not valid:
            raise NaturalImagesValueError(f"{key}: expected {expected}, got {getattr(self, key)!r}")


def augment(
    image: np.ndarray, labels: np.ndarray, section: AugmentSection, seed: int | list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Resize, crop, flip, recolour and pad an image with its labels; all choices from `seed`.

    Parameters
    ----------
    image
        (h, w, 3) uint8.
    labels
        (h, w) uint8, 255 where ignored.

    Returns
    -------
    The image (crop, crop, 3) uint8 and its labels (crop, crop) uint8. Where the resized image is
    smaller than the crop, it is padded right and below: the image with the mean colour, which
    normalising takes to nought as published, the labels with 255.
    """
    random = np.random.default_rng(seed)
    size = fitted(image.shape[:2], section.scale, random.uniform(*section.ratio))
    image, labels = resize(image, size), resize_labels(labels, size)
    window = _draw_window(labels, section, random)
    image, labels = image[window], labels[window]
    if random.random() < section.flip:
        image, labels = image[:, ::-1], labels[:, ::-1]
    if section.photometric:
        image = photometric(image, random)
    return _pad(image, labels, section)


def fitted(size: tuple[int, ...], scale: tuple[int, int], ratio: float) -> tuple[int, int]:
    """Height and width, proportioned as `size`, that just fit both sides of `scale` × `ratio`."""
    long, short = max(scale) * ratio, min(scale) * ratio
    factor = min(long / max(size), short / min(size))
    height, width = (max(1, math.floor(side * factor + 0.5)) for side in size)
    return height, width


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (h, w, 3) uint8 bilinearly, without low-pass filter, as in the published training."""
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
    resized = F.interpolate(pixels, size, mode="bilinear", align_corners=False)
    return resized[0].permute(1, 2, 0).numpy()


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (h, w) uint8; a pixel takes the label that lies at its upper left corner."""
    return F.interpolate(torch.from_numpy(labels)[None, None], size, mode="nearest")[0, 0].numpy()


def photometric(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast, saturation and hue of (h, w, 3) uint8, each one time in two.

    Contrast is changed before or after the other two (Liu et al. 2016, SSD).
    """
    if random.random() < 0.5:
        image = _clipped(image + random.uniform(-BRIGHTNESS, BRIGHTNESS))
    first = random.random() < 0.5
    factor = random.uniform(*CONTRAST) if random.random() < 0.5 else 1.0
    if first:
        image = _clipped(image * factor)
    image = _recolour(image, random)
    return image if first else _clipped(image * factor)


def _recolour(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    saturation = random.uniform(*SATURATION) if random.random() < 0.5 else None
    turn = random.uniform(-HUE, HUE) if random.random() < 0.5 else None
    if saturation is None and turn is None:
        return image
    # A crop's view may be mirrored, and Pillow reads rows as they lie.
    colours = np.array(Image.fromarray(np.ascontiguousarray(image)).convert("HSV"))
    if saturation is not None:
        colours[..., 1] = _clipped(colours[..., 1] * saturation)
    if turn is not None:
        # In 8 bits, which wrap as hues do.
        colours[..., 0] += np.uint8(round(turn / 360 * 256) % 256)
    return np.asarray(Image.fromarray(colours, mode="HSV").convert("RGB"))


def _draw_window(
    labels: np.ndarray, section: AugmentSection, random: np.random.Generator
) -> tuple[slice, slice]:
    """A crop of several classes, none of which fills too much of it, if some draws find one."""
    for _ in range(1 + CROPS_TRIED):
        top, left = (int(random.integers(max(0, side - section.crop) + 1)) for side in labels.shape)
        window = slice(top, top + section.crop), slice(left, left + section.crop)
        counts = np.bincount(labels[window].ravel(), minlength=IGNORED + 1)[:IGNORED]
        varied = np.count_nonzero(counts) > 1 and counts.max() < section.category_cap * counts.sum()
        if section.category_cap == 1 or varied:
            break
    return window


def _pad(
    image: np.ndarray, labels: np.ndarray, section: AugmentSection
) -> tuple[np.ndarray, np.ndarray]:
    height, width = labels.shape
    if min(height, width) == section.crop:
        return image, labels
    padded = np.empty((section.crop, section.crop, 3), np.uint8)
    padded[:] = _clipped(255 * np.array(section.mean))
    padded[:height, :width] = image
    padded_labels = np.full((section.crop, section.crop), IGNORED, np.uint8)
    padded_labels[:height, :width] = labels
    return padded, padded_labels


def _clipped(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
