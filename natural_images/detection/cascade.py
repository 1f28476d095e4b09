"""Cascade Mask R-CNN: three heads, each of which takes the boxes of the one before it.

Cai & Vasconcelos 2018, Cascade R-CNN; 2021 for the masks.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from natural_images.detection.box_heads import SIDE as BOX_SIDE
from natural_images.detection.box_heads import BoxHead
from natural_images.detection.boxes import clip, decode, encode, not_empty
from natural_images.detection.head_section import HeadSection
from natural_images.detection.mask_heads import MASK_SIDE, MaskHead, crop_masks
from natural_images.detection.mask_heads import SIDE as MASK_FEATURES
from natural_images.detection.matching import Truth, mean_over, take
from natural_images.detection.region_proposals import Proposals
from natural_images.detection.roi_maps import RoiMaps
from natural_images.detection.stages import STAGES, Rois, Stage, draw_rois

BETA = 1.0
"""Of smooth L1, as in Fast R-CNN."""


@dataclass(frozen=True)
class Detections:
    """What is found in one image, best first.

    boxes
        (n, 4) float32 x0, y0, x1, y1 in px.
    scores, classes
        (n,) float32 and int64.
    masks
        (n, 28, 28) float32, probabilities inside each box; `paste_masks` brings them into an image.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    masks: Tensor


class CascadeHead(nn.Module):
    """Box and mask heads of the three stages."""

    def __init__(self, num_classes: int, heads: HeadSection) -> None:
        super().__init__()
        self.num_classes, self.heads = num_classes, heads
        channels = heads.channels
        self.bbox_head = nn.ModuleList(
            BoxHead(channels, num_classes, convs=heads.box_convs, hidden=heads.box_fc)
            for _ in STAGES
        )
        self.mask_head = nn.ModuleList(
            MaskHead(channels, num_classes, convs=heads.mask_convs, norm=heads.mask_norm)
            for _ in STAGES
        )

    def losses(
        self, maps: RoiMaps, proposals: Proposals, truth: Truth, sizes: Tensor
    ) -> dict[str, Tensor]:
        """``stage1_class``, ``stage1_box``, ``stage1_mask`` …, by weight of their stage.

        sizes
            (b, 2) height and width of the images.
        """
        found, drawn = {}, []
        for number, (stage, head) in enumerate(zip(STAGES, self.bbox_head, strict=True), start=1):
            rois = draw_rois(proposals, truth, stage, self.heads.box_samples)
            logits, deltas = _predict(head, maps, rois.boxes)
            class_loss, box_loss = self._box_losses(logits, deltas, rois, truth, stage)
            found[f"stage{number}_class"] = stage.weight * class_loss
            found[f"stage{number}_box"] = stage.weight * box_loss
            moved = clip(decode(rois.boxes, deltas.detach(), stage.std), sizes)
            proposals = Proposals(moved, rois.valid & ~rois.added & not_empty(moved))
            drawn.append(rois)
        # Only these wait for the device, to learn how many masks there are: after all else.
        mask_losses = self._mask_losses(maps, drawn, truth)
        for number, (stage, loss) in enumerate(zip(STAGES, mask_losses, strict=True), start=1):
            found[f"stage{number}_mask"] = stage.weight * loss
        return found

    @torch.no_grad()
    def detect(self, maps: RoiMaps, proposals: Proposals, sizes: Tensor) -> list[Detections]:
        """Objects in each image of `sizes` (b, 2): boxes of the last stage, logits of all."""
        boxes, total = proposals.boxes, torch.zeros((), device=sizes.device)
        for stage, head in zip(STAGES, self.bbox_head, strict=True):
            logits, deltas = _predict(head, maps, boxes)
            boxes = clip(decode(boxes, deltas, stage.std), sizes)
            total = total + logits
        scores = (total / len(STAGES)).softmax(-1)[..., : self.num_classes]  # (b, k, class)
        scores = scores * (proposals.valid & not_empty(boxes)).unsqueeze(-1)
        chosen = [self._choose(*each) for each in zip(boxes, scores, strict=True)]
        masks = self._masks(maps, [each[0] for each in chosen], [each[2] for each in chosen])
        return [Detections(*each, mask) for each, mask in zip(chosen, masks, strict=True)]

    def _box_losses(
        self, logits: Tensor, deltas: Tensor, rois: Rois, truth: Truth, stage: Stage
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy and smooth L1, both over the number of RoIs."""
        classes = take(truth.classes, rois.truth)
        classes = torch.where(rois.positive, classes, self.num_classes)  # the last: background
        class_loss = F.cross_entropy(logits.transpose(1, 2), classes, reduction="none")
        targets = encode(rois.boxes, take(truth.boxes, rois.truth), stage.std)
        box_loss = F.smooth_l1_loss(deltas, targets, beta=BETA, reduction="none").sum(-1)
        return (
            mean_over(class_loss, rois.valid, rois.valid),
            mean_over(box_loss, rois.positive, rois.valid),
        )

    def _mask_losses(self, maps: RoiMaps, drawn: list[Rois], truth: Truth) -> list[Tensor]:
        """Mean binary cross-entropy of the masks of each stage's positive RoIs."""
        places = [rois.positive.nonzero(as_tuple=True) for rois in drawn]
        boxes = [rois.boxes[place] for rois, place in zip(drawn, places, strict=True)]
        index = [rois.truth[place] for rois, place in zip(drawn, places, strict=True)]
        room = truth.classes.shape[1]
        objects = [place[0] * room + each for place, each in zip(places, index, strict=True)]
        packed = truth.masks.flatten(0, 1)
        targets = crop_masks(packed, truth.width, torch.cat(boxes), torch.cat(objects))
        classes = truth.classes.flatten()
        losses = []
        for head, box, (images, _), each, target in zip(
            self.mask_head,
            boxes,
            places,
            objects,
            targets.split([len(each) for each in boxes]),
            strict=True,
        ):
            logits = head(maps.pool(box, images, MASK_FEATURES), classes[each])
            loss = F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
            losses.append(loss / max(target.numel(), 1))
        return losses

    def _choose(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and classes of an image, without those that a better one covers."""
        heads = self.heads
        rows, classes = (scores > heads.score).nonzero(as_tuple=True)
        boxes, scores = boxes[rows], scores[rows, classes]
        best = batched_nms(boxes, scores, classes, heads.nms)[: heads.most]
        return boxes[best], scores[best], classes[best]

    def _masks(
        self, maps: RoiMaps, boxes: list[Tensor], classes: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """Mean probabilities (n, 28, 28) of all stages for each image's boxes."""
        counts = [len(each) for each in boxes]
        flat = torch.cat(boxes)
        images = torch.cat([torch.full((n,), i, device=flat.device) for i, n in enumerate(counts)])
        features = maps.pool(flat, images, MASK_FEATURES)
        total = torch.zeros(len(flat), MASK_SIDE, MASK_SIDE, device=flat.device)
        for head in self.mask_head:
            total += head(features, torch.cat(classes)).sigmoid()
        return (total / len(STAGES)).split(counts)


def _predict(head: nn.Module, maps: RoiMaps, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (b, k, class + 1) and deltas (b, k, 4) of RoIs (b, k, 4)."""
    batch, count, _ = boxes.shape
    images = torch.arange(batch, device=boxes.device).repeat_interleave(count)
    logits, deltas = head(maps.pool(boxes.flatten(0, 1), images, BOX_SIDE))
    return logits.unflatten(0, (batch, count)), deltas.unflatten(0, (batch, count))
