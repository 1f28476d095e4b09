"""The maps of a pyramid, laid out so that regions of interest of every size are taken at once."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from natural_images.detection.boxes import area

SIDE_IN_STRIDES = 14
"""Least side of an RoI in strides of its map: 56 px at stride 4, and 224 px, the size of ImageNet,
at stride 16 (Lin et al. 2017, FPN)."""


class RoiMaps:
    """RoIAlign (He et al. 2017, Mask R-CNN) on the map that suits the size of each RoI.

    The maps lie one below the other in one tall map. RoIs then need not be sorted by map, for which
    their numbers would have to be read from the device, and their features come in their own order.
    Each map is surrounded by a repetition of its edge, as if RoIAlign met the end of it.

    maps : (b, channel, row, column) each, finest first; each has twice the stride of the last.
    stride : px between the places of the first.
    """

    def __init__(self, maps: Sequence[Tensor], stride: int) -> None:
        # In float32, as RoIAlign computes; converted once here instead of in every call.
        framed = [F.pad(each.float(), (1, 1, 1, 1), mode="replicate") for each in maps]
        width = max(each.shape[-1] for each in framed)
        below = [F.pad(each, (0, width - each.shape[-1])) for each in framed]
        self._tall = torch.cat(below, dim=2).contiguous()
        self._heights = [each.shape[-2] for each in framed]
        self._stride = stride

    def level(self, boxes: Tensor) -> Tensor:
        """Number of the map (m,) from which each of the boxes (m, 4) is taken."""
        side = area(boxes).clamp(min=0).sqrt() / (SIDE_IN_STRIDES * self._stride)
        return (side + 1e-6).log2().floor().clamp(0, len(self._heights) - 1)

    def pool(self, boxes: Tensor, images: Tensor, side: int) -> Tensor:
        """Features (m, channel, side, side) of boxes (m, 4) in px of their images (m,) int64.

        Each value is the mean of about one sample a place of the map.
        """
        level = self.level(boxes)
        first_row = sum(
            (level > number) * height for number, height in enumerate(self._heights[:-1])
        )
        corner = torch.stack([torch.zeros_like(level), torch.zeros_like(level) + first_row], dim=1)
        stride = self._stride * level.exp2().unsqueeze(1)
        placed = boxes / stride + 1 + corner.repeat(1, 2)
        rois = torch.cat([images.unsqueeze(1).to(placed.dtype), placed], dim=1)
        return roi_align(self._tall, rois, side, aligned=True)
