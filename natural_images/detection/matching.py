"""Which box stands for which object, and a random sample of them to learn from.

Written for whole batches without a look at their content from the host: what is absent is marked
so in arrays of fixed size, and nothing waits for the device.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from natural_images.detection.boxes import pairwise_iou


@dataclass(frozen=True)
class Truth:
    """The objects of a batch; every image has room for n ≥ 1.

    boxes
        (b, n, 4) float32 x0, y0, x1, y1 in px.
    classes
        (b, n) int64; −1 where there is no object.
    masks
        (b, n, height, ⌈width / 8⌉) uint8: 8 px a byte along a row, the first in the highest bit.
    width
        Columns of the masks, px.
    """

    boxes: Tensor
    classes: Tensor
    masks: Tensor
    width: int

    @property
    def real(self) -> Tensor:
        """Which objects there are, (b, n) bool."""
        return self.classes >= 0


@dataclass(frozen=True)
class Matches:
    """What each of p boxes stands for.

    truth
        (b, p) int64, the object with the largest overlap.
    positive, negative
        (b, p) bool: it shows that object, or background. Neither is not learned from.
    """

    truth: Tensor
    positive: Tensor
    negative: Tensor


@dataclass(frozen=True)
class Sample:
    """k of p boxes, positive ones first.

    index
        (b, k) int64 into the boxes.
    positive, valid
        (b, k) bool: it shows an object; it was drawn at all, where there are fewer than k.
    """

    index: Tensor
    positive: Tensor
    valid: Tensor


def match(
    boxes: Tensor,
    objects: Tensor,
    real: Tensor,
    *,
    positive: float,
    negative: float,
    every_object: bool = False,
) -> Matches:
    """Match boxes (b, p, 4) with objects (b, n, 4) by their intersection over union.

    real
        (b, n) bool, which objects there are.
    positive, negative
        A box is positive from the one on and negative below the other.
    every_object
        The boxes that overlap an object most are positive too, unless they are negative: an object
        that no box fits well is not lost (Ren et al. 2015, Faster R-CNN, 3.1.2).
    """
    iou = pairwise_iou(objects, boxes)  # (b, n, p)
    iou = iou.masked_fill(~real.unsqueeze(-1), -1)
    overlap, index = iou.max(1)
    is_positive = overlap >= positive
    if every_object:
        best = iou.amax(2, keepdim=True)
        is_positive |= ((iou == best) & (best >= negative)).any(1)
    return Matches(index, is_positive, (overlap < negative) & ~is_positive)


def sample(positive: Tensor, negative: Tensor, count: int, positive_part: float) -> Sample:
    """Draw `count` of the boxes that are positive or negative, both (b, p) bool.

    At most `positive_part` of `count` are positive; negative ones make up the rest.
    """
    key = torch.rand(positive.shape, device=positive.device)
    most = min(int(count * positive_part), key.shape[1])
    least = torch.where(positive, key, -1).topk(most, dim=1).values[:, -1:]
    key = torch.where(positive & (key >= least), key + 1, torch.where(negative, key, -1))
    drawn, index = key.topk(min(count, key.shape[1]), dim=1)
    return Sample(index, drawn >= 1, drawn >= 0)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Values (b, p, …) at index (b, k) of their image: (b, k, …)."""
    rows = torch.arange(len(values), device=values.device).unsqueeze(1)
    return values[rows, index]


def mean_over(loss: Tensor, chosen: Tensor, counted: Tensor) -> Tensor:
    """Sum of a loss (b, k) over `chosen`, divided by how many are `counted`, both (b, k) bool.

    Zero, with gradients of zero, where none is.
    """
    return torch.where(chosen, loss, 0).sum() / counted.sum().clamp(min=1)
