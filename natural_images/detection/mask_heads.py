"""Which part of an RoI its object covers (He et al. 2017, Mask R-CNN)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from natural_images.detection.layers import conv_blocks, zero_bias

SIDE = 14
"""Rows and columns of the features of an RoI; its mask has twice as many."""
MASK_SIDE = 2 * SIDE

PASTED_AT_ONCE = 2**26
"""Pixels of masks that are held in float32 while masks are pasted: 256 MB."""


class MaskHead(nn.Module):
    """3 × 3 convolutions, LayerNorm with `norm`, then one mask a class at twice the resolution."""

    def __init__(self, channels: int, num_classes: int, *, convs: int, norm: bool) -> None:
        super().__init__()
        self.convs = conv_blocks(channels, channels, convs, norm=norm)
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.conv_logits = nn.Conv2d(channels, num_classes, 1)
        for layer in (self.upsample, self.conv_logits):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            zero_bias(layer)

    def forward(self, features: Tensor, classes: Tensor) -> Tensor:
        """Logits (m, 28, 28) float32 of the masks of `classes` (m,) int64.

        features : (m, channel, 14, 14).
        """
        logits = self.conv_logits(F.relu(self.upsample(self.convs(features))))
        rows = torch.arange(len(classes), device=classes.device)
        return logits[rows, classes].float()


def unpack_masks(packed: Tensor, width: int) -> Tensor:
    """Masks (…, height, width) uint8, 0 or 1, of (…, height, ⌈width / 8⌉) bits, highest first."""
    shift = torch.arange(7, -1, -1, device=packed.device, dtype=torch.uint8)
    bits = (packed.unsqueeze(-1) >> shift) & 1
    return bits.flatten(-2)[..., :width]


@torch.no_grad()
def crop_masks(packed: Tensor, width: int, boxes: Tensor, objects: Tensor) -> Tensor:
    """Masks of objects as their RoIs see them, (m, 28, 28) float32, 0 or 1.

    A place is 1 where the object covers half of it or more: RoIAlign of the whole mask. Only masks
    that are asked for are unpacked, to 4 bytes a pixel.

    Parameters
    ----------
    packed
        (object, height, ⌈width / 8⌉) uint8.
    boxes, objects
        RoIs (m, 4) in px, and the object of each (m,) int64.
    """
    used, place = objects.unique(return_inverse=True)
    masks = unpack_masks(packed[used], width).float().unsqueeze(1)
    rois = torch.cat([place.unsqueeze(1).to(boxes.dtype), boxes], dim=1)
    return (roi_align(masks, rois, MASK_SIDE, aligned=True).squeeze(1) >= 0.5).float()


@torch.no_grad()
def paste_masks(probabilities: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks of an image of `size` (height, width), (n, height, width) bool.

    A pixel belongs to an object where the bilinear interpolation of the probabilities at its middle
    is at least ½. Beyond their outermost places these fall to 0 within one place.

    Parameters
    ----------
    probabilities
        (n, 28, 28), or of another side.
    boxes
        (n, 4) in px of the image.
    """
    height, width = size
    pasted = torch.empty(len(boxes), height, width, dtype=torch.bool, device=boxes.device)
    at_once = max(PASTED_AT_ONCE // (height * width), 1)
    for start in range(0, len(boxes), at_once):
        part = slice(start, start + at_once)
        x0, y0, x1, y1 = boxes[part].float().unbind(1)
        mask = probabilities[part].float()
        down = _interpolation(y0, y1, height, mask.shape[1])
        across = _interpolation(x0, x1, width, mask.shape[2])
        # Bilinear interpolation is a product with one matrix of weights an axis.
        pasted[part] = down @ mask @ across.transpose(1, 2) >= 0.5
    return pasted


def _interpolation(low: Tensor, high: Tensor, pixels: int, places: int) -> Tensor:
    """Weights (n, pixel, place) of linear interpolation between places from `low` to `high`."""
    pixel = torch.arange(pixels, device=low.device) + 0.5
    side = (high - low).clamp(min=1e-6).unsqueeze(1)
    at = (pixel - low.unsqueeze(1)) / side * places - 0.5
    distance = at.unsqueeze(2) - torch.arange(places, device=low.device)
    return (1 - distance.abs()).clamp(min=0)
