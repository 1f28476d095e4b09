"""Large-scale jitter: how an image is placed in the square that a detector sees.

Ghiasi et al. 2021, Simple Copy-Paste (its jitter alone); Li et al. 2022, ViTDet.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from natural_images.errors import NaturalImagesValueError


@dataclass(frozen=True)
class AugmentSection:
    """What is done to images; the defaults are the published COCO recipe.

    size
        Side in px of the square that the model sees, in training and after it.
    scale
        Smallest and largest factor of the jitter: an image is resized to fit a square of `size`
        times a number drawn between them. A part of `size` is cut from what is larger, and what is
        smaller is padded on the right and below.
    flip
        Probability of a horizontal flip.
    mean, std
        Of the pixels by channel, on a scale of 0 to 1. Padding has the mean's colour.
    """

    size: int = 1024
    scale: tuple[float, float] = (0.1, 2.0)
    flip: float = 0.5
    mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, float, float] = IMAGENET_DEFAULT_STD

    def __post_init__(self) -> None:
        size = self.size
        whole = isinstance(size, int) and not isinstance(size, bool)
        self._check("size", whole and size >= 1, "a whole number of px from 1")
        for key, length in (("scale", 2), ("mean", 3), ("std", 3)):
            value = getattr(self, key)
            valid = isinstance(value, tuple | list) and len(value) == length
            self._check(key, valid and all(map(_is_number, value)), f"{length} numbers")
            object.__setattr__(self, key, tuple(map(float, value)))
        low, high = self.scale
        self._check("scale", 0 < low <= high, "two factors, 0 < smallest <= largest")
        self._check("std", all(value > 0 for value in self.std), "3 numbers above 0")
        flips = _is_number(self.flip) and 0 <= self.flip <= 1
        self._check("flip", flips, "a probability from 0 to 1")

    def _check(self, key: str, valid: bool, expected: str) -> None:
        if not valid:
            raise NaturalImagesValueError(
                f"augment key '{key}': expected {expected}, got {getattr(self, key)!r}"
            )


@dataclass(frozen=True)
class Placement:
    """Where an image lies in a square: it is flipped, then resized, then cut or padded.

    image, resized
        (height, width) in px before and after resizing.
    size
        Side of the square.
    corner
        (top, left) of the square in the resized image, px.
    flip
        Whether left and right are exchanged.
    """

    image: tuple[int, int]
    resized: tuple[int, int]
    size: int
    corner: tuple[int, int] = (0, 0)
    flip: bool = False

    @property
    def shown(self) -> tuple[int, int]:
        """Rows and columns of the square that show the image; the rest is padding."""
        rows, columns = (
            min(self.size, side - start)
            for side, start in zip(self.resized, self.corner, strict=True)
        )
        return rows, columns

    @property
    def scale(self) -> tuple[float, float]:
        """Factors along x and y."""
        return self.resized[1] / self.image[1], self.resized[0] / self.image[0]

    def pixels(self, image: Image.Image, fill: tuple[int, int, int]) -> np.ndarray:
        """The square of an RGB image, (3, size, size) uint8, padded with `fill`; bilinear."""
        if self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        rows, columns = self.shown
        top, left = self.corner
        across, down = self.scale
        # Of the image only what is shown is resized: at most size², whatever the jitter.
        part = (
            left / across,
            top / down,
            min((left + columns) / across, image.width),
            min((top + rows) / down, image.height),
        )
        square = np.empty((self.size, self.size, 3), np.uint8)
        square[:] = fill
        resized = image.resize((columns, rows), Image.Resampling.BILINEAR, box=part)
        square[:rows, :columns] = np.asarray(resized)
        return square.transpose(2, 0, 1)

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points (n, 2) x, y of the image as points of the square; some may lie outside of it."""
        x, y = points.T.astype(np.float64)
        if self.flip:
            x = self.image[1] - x
        across, down = self.scale
        return np.stack([x * across - self.corner[1], y * down - self.corner[0]], axis=1)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """A mask (height, width) bool of the image as `shown` of the square sees it."""
        if self.flip:
            mask = mask[:, ::-1]
        across, down = self.scale
        top, left = self.corner
        rows, columns = self.shown
        # From a pixel of the square to one of the image; Pillow means their middles.
        back = (1 / across, 0, left / across, 0, 1 / down, top / down)
        levels = Image.fromarray(mask.astype(np.uint8) * 255)
        moved = levels.transform(
            (columns, rows), Image.Transform.AFFINE, back, Image.Resampling.BILINEAR
        )
        return np.asarray(moved) >= 128

    def boxes_of_image(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) x0, y0, x1, y1 of the square as boxes of the image, cut at its edges.

        For placements without a flip.
        """
        across, down = self.scale
        height, width = self.image
        corner = np.array([self.corner[1], self.corner[0]] * 2)
        found = (boxes.astype(np.float64) + corner) / [across, down, across, down]
        return found.clip(0, [width, height, width, height])


def fit(image: tuple[int, int], size: int) -> Placement:
    """Place an image of (height, width) as in evaluation: as large as fits, in the upper left."""
    return Placement(image, _resized(image, size), size)


def jitter(
    image: tuple[int, int], augment: AugmentSection, random: np.random.Generator
) -> Placement:
    """Place an image of (height, width) at random, as in training."""
    flip = bool(random.random() < augment.flip)
    resized = _resized(image, augment.size * random.uniform(*augment.scale))
    top, left = (int(random.integers(max(side - augment.size, 0) + 1)) for side in resized)
    return Placement(image, resized, augment.size, (top, left), flip)


def fill_colour(augment: AugmentSection) -> tuple[int, int, int]:
    """The colour of padding, which is nearly zero for the model."""
    red, green, blue = (round(255 * value) for value in augment.mean)
    return red, green, blue


def _resized(image: tuple[int, int], side: float) -> tuple[int, int]:
    factor = side / max(image)
    height, width = (max(int(edge * factor + 0.5), 1) for edge in image)
    return height, width


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
