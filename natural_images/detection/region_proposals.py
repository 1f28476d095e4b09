"""Region proposal network: boxes in which there may be an object (Ren et al. 2015)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from natural_images.detection.boxes import clip, decode, encode, not_empty
from natural_images.detection.layers import conv_blocks, init_normal
from natural_images.detection.matching import Matches, Truth, match, mean_over, sample, take

ANCHOR_SCALE = 8
"""Side of a square anchor in strides of its map."""
RATIOS = (0.5, 1.0, 2.0)
"""Heights of the anchors by width, at the same area."""

POSITIVE, NEGATIVE = 0.7, 0.3
POSITIVE_PART = 0.5
NMS = 0.7

BETA = 1 / 9
"""Of smooth L1, below which it is quadratic: σ = 3 of Faster R-CNN, as Cascade R-CNN took it."""


@dataclass(frozen=True)
class Proposals:
    """Boxes (b, k, 4) of each image, the most promising first; valid (b, k) where there is one."""

    boxes: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Predictions:
    """What the network says of the anchors of each map, in the order map, row, column, ratio.

    logits
        (b, p) of each map, that there is an object.
    deltas
        (b, p, 4) of each map, from the anchor to its box.
    anchors
        (p, 4) of each map.
    """

    logits: list[Tensor]
    deltas: list[Tensor]
    anchors: list[Tensor]


class RegionProposalHead(nn.Module):
    """Convolutions shared by all maps, then a logit and a box for each of three anchors a place."""

    ratios: Tensor

    def __init__(self, channels: int, convs: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.strides = list(strides)
        self.rpn_conv = conv_blocks(channels, channels, convs, norm=False)
        self.rpn_cls = nn.Conv2d(channels, len(RATIOS), 1)
        self.rpn_reg = nn.Conv2d(channels, 4 * len(RATIOS), 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                init_normal(layer, std=0.01)
        self.register_buffer("ratios", torch.tensor(RATIOS), persistent=False)

    def forward(self, maps: Sequence[Tensor]) -> Predictions:
        """Predict for maps (b, channel, row, column), one a stride."""
        hidden = [self.rpn_conv(each) for each in maps]
        # (b, ratio · coordinate, row, column) to (b, row, column, ratio, coordinate)
        logits = [self.rpn_cls(each).permute(0, 2, 3, 1).flatten(1) for each in hidden]
        deltas = [self.rpn_reg(each).permute(0, 2, 3, 1).flatten(1) for each in hidden]
        return Predictions(
            [each.float() for each in logits],
            [each.float().unflatten(1, (-1, 4)) for each in deltas],
            [self._anchors(each, stride) for each, stride in zip(maps, self.strides, strict=True)],
        )

    def losses(self, predicted: Predictions, truth: Truth, samples: int) -> tuple[Tensor, Tensor]:
        """Cross-entropy and smooth L1 of `samples` anchors an image, over the number of anchors."""
        anchors = torch.cat(predicted.anchors)
        found = _match(anchors, truth)
        drawn = sample(found.positive, found.negative, samples, POSITIVE_PART)
        logits = take(torch.cat(predicted.logits, dim=1), drawn.index)
        deltas = take(torch.cat(predicted.deltas, dim=1), drawn.index)
        boxes = take(truth.boxes, take(found.truth, drawn.index))
        targets = encode(anchors[drawn.index], boxes)
        class_loss = F.binary_cross_entropy_with_logits(
            logits, drawn.positive.float(), reduction="none"
        )
        box_loss = F.smooth_l1_loss(deltas, targets, beta=BETA, reduction="none").sum(-1)
        return (
            mean_over(class_loss, drawn.valid, drawn.valid),
            mean_over(box_loss, drawn.positive, drawn.valid),
        )

    @torch.no_grad()
    def propose(self, predicted: Predictions, sizes: Tensor, count: int) -> Proposals:
        """The best `count` boxes, inside images of `sizes` (b, 2); up to as many from each map."""
        best, boxes, levels = [], [], []
        for level, (logits, deltas, anchors) in enumerate(
            zip(predicted.logits, predicted.deltas, predicted.anchors, strict=True)
        ):
            top, index = logits.topk(min(count, logits.shape[1]), dim=1)
            best.append(top)
            boxes.append(clip(decode(anchors[index], take(deltas, index)), sizes))
            levels.append(torch.full_like(index, level))
        return _suppress(torch.cat(boxes, 1), torch.cat(best, 1), torch.cat(levels, 1), count)

    def _anchors(self, each: Tensor, stride: int) -> Tensor:
        """Anchors (row · column · ratio, 4) of a map; the first ones lie around the corner."""
        rows, columns = each.shape[-2:]
        y, x = (torch.arange(n, device=each.device) * float(stride) for n in (rows, columns))
        half = ANCHOR_SCALE * stride / 2
        height, width = half * self.ratios.sqrt(), half / self.ratios.sqrt()
        around = torch.stack([-width, -height, width, height], dim=1)  # (ratio, 4)
        centre = torch.stack(torch.meshgrid(x, y, indexing="xy") * 2, dim=-1)  # (row, column, 4)
        return (centre.unsqueeze(2) + around).flatten(0, 2)


def _match(anchors: Tensor, truth: Truth) -> Matches:
    # One image at a time: of a whole batch, the overlaps alone would take a gigabyte.
    found = [
        match(
            anchors.unsqueeze(0),
            boxes.unsqueeze(0),
            real.unsqueeze(0),
            positive=POSITIVE,
            negative=NEGATIVE,
            every_object=True,
        )
        for boxes, real in zip(truth.boxes, truth.real, strict=True)
    ]
    return Matches(
        torch.cat([each.truth for each in found]),
        torch.cat([each.positive for each in found]),
        torch.cat([each.negative for each in found]),
    )


def _suppress(boxes: Tensor, logits: Tensor, levels: Tensor, count: int) -> Proposals:
    """The best `count` boxes (b, p, 4) of each image, without those that a better one covers."""
    logits = logits.masked_fill(~not_empty(boxes), -torch.inf)
    chosen = []
    for each, logit, level in zip(boxes, logits, levels, strict=True):
        kept = each[batched_nms(each, logit, level, NMS)[:count]]
        chosen.append(F.pad(kept, (0, 0, 0, count - len(kept))))
    best = torch.stack(chosen)
    return Proposals(best, not_empty(best))
