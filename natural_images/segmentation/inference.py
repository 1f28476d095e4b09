"""Probabilities of the classes at every pixel of an image of any size, as published for ADE20K."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from natural_images.errors import NaturalImagesValueError
from natural_images.segmentation.augment import fitted

Mode = Literal["slide", "whole"]

WINDOWS_AT_ONCE = 4
"""Windows of a forward pass; with 150 classes, the logits of one of 512 px take 157 MB."""
ROWS_AT_ONCE = 64
"""Rows of an image whose logits become probabilities at once."""


@dataclass(frozen=True)
class TestSection:
    """How an image is segmented; the defaults are the published ADE20K evaluation.

    mode
        "slide" averages the logits of overlapping windows, "whole" sees the image at once.
    crop, stride
        Side of a window in px, and px from one to the next; the last one ends with the image.
    flip
        Average with what the mirrored image gives.
    ratios
        Sizes to average over, as factors of the one that `short_side` and `long_side` say.
    short_side, long_side
        An image is resized, as it is proportioned, to fit these sides in px; with `short_side` None
        it keeps its size.
    """

    mode: Mode = "slide"
    crop: int = 512
    stride: int = 341
    flip: bool = False
    ratios: tuple[float, ...] = (1.0,)
    short_side: int | None = 512
    long_side: int = 2048

    def __post_init__(self) -> None:
        self._check("mode", self.mode in get_args(Mode), f"one of {[*get_args(Mode)]}")
        self._check("crop", _is_whole(self.crop), "a whole number of pixels")
        fits = _is_whole(self.stride) and self.stride <= self.crop
        self._check("stride", fits, f"1 px to the crop's {self.crop}, so that windows leave no gap")
        self._check("flip", isinstance(self.flip, bool), "true or false")
        ratios = self.ratios
        valid = isinstance(ratios, tuple | list) and all(_is_positive(ratio) for ratio in ratios)
        self._check("ratios", valid and len(ratios) > 0, "numbers above 0")
        object.__setattr__(self, "ratios", tuple(ratios))
        short = self.short_side
        self._check("short_side", short is None or _is_whole(short), "none or a number of pixels")
        long = self.long_side
        valid = _is_whole(long) and (short is None or long >= short)
        self._check("long_side", valid, f"a whole number of pixels from short_side, {short}")

    def _check(self, key: str, valid: bool, expected: str) -> None:
        if not valid:
            raise NaturalImagesValueError(f"{key}: expected {expected}, got {getattr(self, key)!r}")


@torch.no_grad()
def predict(model: nn.Module, image: Tensor, section: TestSection) -> Tensor:
    """Probabilities (class, h, w) float32 at the pixels of an image, on the model's device.

    Every size and its mirror image is segmented for itself: the image is resized, windows give
    logits, these are averaged where windows overlap, resized to the image's own size and made
    probabilities, and probabilities are averaged.

    Parameters
    ----------
    model
        Logits (b, class, h, w) of images (b, 3, h, w), in evaluation mode: a `Segmenter`.
    image
        (3, h, w) floating point, normalised, at its own size.

    Returns
    -------
    The only large thing in memory beside the logits at the resized size: 2.5 GB for 2048 × 2048 px
    and 150 classes.
    """
    image = image.to(next(model.parameters()).device)
    total: Tensor | None = None
    passes = [
        (ratio, flip) for ratio in section.ratios for flip in (False, True)[: 1 + section.flip]
    ]
    for ratio, flip in passes:
        resized = _resize(image, _size(image.shape[1:], section, ratio))
        if flip:
            resized = resized.flip(-1)
        if section.mode == "whole":
            logits = model(resized[None])[0].float()
        else:
            logits = _slide(model, resized, section)
        if flip:
            logits = logits.flip(-1)
        if total is None:
            total = logits.new_zeros(len(logits), *image.shape[1:])
        _add_probabilities(total, logits, 1 / len(passes))
    assert total is not None
    return total


def windows(side: int, crop: int, stride: int) -> list[int]:
    """Where windows of `crop` px start along a side, so that the last one ends with it."""
    count = math.ceil(max(0, side - crop) / stride) + 1
    return [max(0, min(number * stride, side - crop)) for number in range(count)]


def _slide(model: nn.Module, image: Tensor, section: TestSection) -> Tensor:
    """Logits (class, h, w) float32 of an image (3, h, w), averaged where windows overlap."""
    height, width = image.shape[1:]
    crop = section.crop
    # What is smaller than a window is padded as in training, with the mean colour.
    image = F.pad(image, (0, max(0, crop - width), 0, max(0, crop - height)))
    corners = [
        (top, left)
        for top in windows(height, crop, section.stride)
        for left in windows(width, crop, section.stride)
    ]
    total: Tensor | None = None
    counts = image.new_zeros(image.shape[1:], dtype=torch.float32)
    for first in range(0, len(corners), WINDOWS_AT_ONCE):
        batch = corners[first : first + WINDOWS_AT_ONCE]
        views = torch.stack([image[:, top : top + crop, left : left + crop] for top, left in batch])
        found = model(views)
        if total is None:
            total = found.new_zeros(found.shape[1], *image.shape[1:], dtype=torch.float32)
        for (top, left), logits in zip(batch, found, strict=True):
            total[:, top : top + crop, left : left + crop] += logits
            counts[top : top + crop, left : left + crop] += 1
    assert total is not None
    return total.div_(counts)[:, :height, :width]


def _add_probabilities(total: Tensor, logits: Tensor, weight: float) -> None:
    """Add to `total` (class, h, w) the weighted softmax of logits (class, ·, ·), resized to it.

    A few rows at a time, so that no second tensor of its size is needed.
    """
    height = total.shape[1]
    for first in range(0, height, ROWS_AT_ONCE):
        rows = range(first, min(first + ROWS_AT_ONCE, height))
        part = resized_rows(logits, (height, total.shape[2]), rows)
        total[:, rows.start : rows.stop].add_(part.softmax(dim=0), alpha=weight)


def resized_rows(maps: Tensor, size: tuple[int, int], rows: range) -> Tensor:
    """Rows `rows` of maps (channel, ·, ·) resized bilinearly to `size`: (channel, row, column)."""
    height, width = maps.shape[1:]
    if (height, width) == size:
        return maps[:, rows.start : rows.stop]
    centres = torch.arange(rows.start, rows.stop, device=maps.device) + 0.5
    places = (centres * (height / size[0]) - 0.5).clamp(0, height - 1)
    above = places.long()
    below = (above + 1).clamp(max=height - 1)
    part = torch.lerp(maps[:, above], maps[:, below], (places - above)[:, None])
    return _resize(part, (len(rows), size[1]))


def _size(size: torch.Size, section: TestSection, ratio: float) -> tuple[int, int]:
    if section.short_side is not None:
        return fitted(tuple(size), (section.long_side, section.short_side), ratio)
    height, width = (max(1, math.floor(side * ratio + 0.5)) for side in size)
    return height, width


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (channel, h, w) at another size, bilinear and without low-pass filter."""
    if tuple(maps.shape[1:]) == size:
        return maps
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_positive(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value > 0
