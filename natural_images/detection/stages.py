"""The stages of the cascade, and the regions of interest (RoIs) that each learns from."""

from dataclasses import dataclass

import torch
from torch import Tensor

from natural_images.detection.boxes import Std
from natural_images.detection.matching import Truth, match, sample, take
from natural_images.detection.region_proposals import Proposals

POSITIVE_PART = 0.25


@dataclass(frozen=True)
class Stage:
    """Overlap from which an RoI shows an object, weight of the losses, and scale of the deltas."""

    iou: float
    weight: float
    std: Std


STAGES = (
    Stage(0.5, 1.0, (0.1, 0.2)),
    Stage(0.6, 0.5, (0.05, 0.1)),
    Stage(0.7, 0.25, (0.033, 0.067)),
)
"""Cai & Vasconcelos 2018, Cascade R-CNN."""


@dataclass(frozen=True)
class Rois:
    """RoIs of a batch that a stage learns from.

    boxes
        (b, k, 4).
    truth
        (b, k) int64, the object with the largest overlap.
    positive, valid
        (b, k) bool: it shows that object; there is an RoI at all.
    added
        (b, k) bool, it is the box of an object and no proposal.
    """

    boxes: Tensor
    truth: Tensor
    positive: Tensor
    valid: Tensor
    added: Tensor


@torch.no_grad()
def draw_rois(proposals: Proposals, truth: Truth, stage: Stage, count: int) -> Rois:
    """RoIs of a stage; the objects' own boxes are among those that are drawn from."""
    boxes = torch.cat([proposals.boxes, truth.boxes], dim=1)
    there = torch.cat([proposals.valid, truth.real], dim=1)
    found = match(boxes, truth.boxes, truth.real, positive=stage.iou, negative=stage.iou)
    drawn = sample(found.positive & there, found.negative & there, count, POSITIVE_PART)
    return Rois(
        boxes=take(boxes, drawn.index),
        truth=take(found.truth, drawn.index),
        positive=drawn.positive,
        valid=drawn.valid,
        added=drawn.index >= proposals.boxes.shape[1],
    )
