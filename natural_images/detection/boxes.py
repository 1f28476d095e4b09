"""Arithmetic of boxes (…, 4) float32, x0, y0, x1, y1 in px; batches of images at once."""

import math

import torch
from torch import Tensor

Std = tuple[float, float]
"""Standard deviations of the offsets of centres and of the logarithms of sides."""

LARGEST_LOG_FACTOR = math.log(1000 / 16)
"""No side grows or shrinks by more in one step, so that no early prediction overflows."""

SMALLEST = 1e-6
"""Least side and area in px that are divided by."""


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union (b, n, m) of boxes (b, n, 4) and (b, m, 4)."""
    first, second = boxes.unsqueeze(2), others.unsqueeze(1)
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    common = (high - low).clamp(min=0).prod(-1)  # (b, n, m)
    union = area(first) + area(second) - common
    return common / union.clamp(min=SMALLEST)


def area(boxes: Tensor) -> Tensor:
    """Px² (…) of boxes (…, 4)."""
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def encode(boxes: Tensor, targets: Tensor, std: Std = (1, 1)) -> Tensor:
    """What turns boxes into targets, both (…, 4): offsets of centres by side, and log factors.

    R-CNN's parametrisation (Girshick et al. 2014, appendix C), divided by `std`. Finite also where
    a box or a target is empty.
    """
    centre, sides = _centre_and_sides(boxes)
    target_centre, target_sides = _centre_and_sides(targets)
    sides, target_sides = sides.clamp(min=SMALLEST), target_sides.clamp(min=SMALLEST)
    offset, factor = (target_centre - centre) / sides, (target_sides / sides).log()
    return torch.cat([offset / std[0], factor / std[1]], dim=-1)


def decode(boxes: Tensor, deltas: Tensor, std: Std = (1, 1)) -> Tensor:
    """Boxes (…, 4) moved by deltas (…, 4): the inverse of `encode`, up to the largest factor."""
    centre, sides = _centre_and_sides(boxes)
    offset, factor = deltas.float().split(2, dim=-1)
    centre = centre + offset * std[0] * sides
    factor = (factor * std[1]).clamp(-LARGEST_LOG_FACTOR, LARGEST_LOG_FACTOR)
    half = sides * factor.exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (b, n, 4) cut at the edges of their images of `sizes` (b, 2) height, width.

    NaN becomes 0: what a diverged model predicts must reach its loss, not the index of a pixel.
    """
    most = sizes.flip(-1).repeat(1, 2).unsqueeze(1)  # (b, 1, 4)
    return boxes.nan_to_num(nan=0.0).clamp(min=0).minimum(most)


def not_empty(boxes: Tensor) -> Tensor:
    """Which boxes (…, 4) have an area, (…) bool."""
    return (boxes[..., 2:] > boxes[..., :2]).all(-1)


def _centre_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes.split(2, dim=-1)
    return (low + high) / 2, high - low
