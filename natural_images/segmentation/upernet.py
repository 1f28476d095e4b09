"""UPerNet's decode head (Xiao et al. 2018), and the auxiliary FCN head of training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from natural_images.errors import NaturalImagesValueError


@dataclass(frozen=True)
class HeadSection:
    """Sizes of both heads; the defaults are the published ADE20K recipe.

    channels
        Of every map within the decode head.
    pool_scales
        Sides of the grids on which the pyramid pools the last map.
    dropout
        Probability that a channel is dropped before the classes are told apart, in both heads.
    auxiliary_channels
        Of the auxiliary head's map.
    auxiliary_map
        Which of the backbone's maps the auxiliary head sees, from 0.
    auxiliary_weight
        Of the auxiliary head's loss; the decode head's has 1.
    """

    channels: int = 512
    pool_scales: tuple[int, ...] = (1, 2, 3, 6)
    dropout: float = 0.1
    auxiliary_channels: int = 256
    auxiliary_map: int = 2
    auxiliary_weight: float = 0.4

    def __post_init__(self) -> None:
        for key, least in (("channels", 1), ("auxiliary_channels", 1), ("auxiliary_map", 0)):
            valid = _is_whole(getattr(self, key), least)
            self._check(key, valid, f"a whole number from {least}")
        scales = self.pool_scales
        valid = isinstance(scales, tuple | list) and all(_is_whole(side, 1) for side in scales)
        self._check("pool_scales", valid and len(scales) > 0, "whole numbers from 1")
        object.__setattr__(self, "pool_scales", tuple(scales))
        dropout, weight = self.dropout, self.auxiliary_weight
        self._check("dropout", _is_number(dropout) and 0 <= dropout < 1, "a number in [0, 1)")
        self._check("auxiliary_weight", _is_number(weight) and weight >= 0, "a number from 0")

    def _check(self, key: str, valid: bool, expected: str) -> None:
        if not valid:
            raise NaturalImagesValueError(f"{key}: expected {expected}, got {getattr(self, key)!r}")


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU; maps keep their size."""

    def __init__(self, in_channels: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, row, column) of (batch, in_channels, row, column)."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class UPerHead(nn.Module):
    """Pools the last map at several scales, adds it to the earlier ones, and fuses all of them.

    Maps of a plain backbone have one size, so nothing is resized on the way down the pyramid.

    dim, maps
        Channels of a map of the backbone, and how many maps there are.
    """

    def __init__(self, dim: int, maps: int, num_classes: int, heads: HeadSection) -> None:
        super().__init__()
        channels, scales = heads.channels, heads.pool_scales
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), ConvNorm(dim, channels, 1)) for side in scales
        )
        self.bottleneck = ConvNorm(dim + len(scales) * channels, channels, 3)
        self.lateral_convs = nn.ModuleList(ConvNorm(dim, channels, 1) for _ in range(maps - 1))
        self.fpn_convs = nn.ModuleList(ConvNorm(channels, channels, 3) for _ in range(maps - 1))
        self.fpn_bottleneck = ConvNorm(maps * channels, channels, 3)
        self.dropout = nn.Dropout2d(heads.dropout)
        self.conv_seg = _classifier(channels, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (batch, class, row, column) of maps (batch, dim, row, column), the last on top."""
        top = self._pooled(maps[-1])
        pyramid = [top]
        above = top
        convs = zip(self.lateral_convs, self.fpn_convs, maps[:-1], strict=True)
        for lateral, smooth, earlier in reversed(list(convs)):
            above = above + lateral(earlier)
            pyramid.insert(0, smooth(above))
        fused = self.fpn_bottleneck(torch.cat(pyramid, dim=1))
        return self.conv_seg(self.dropout(fused))

    def _pooled(self, last: Tensor) -> Tensor:
        """The pyramid pooling module (Zhao et al. 2017, PSPNet): (batch, channels, row, column)."""
        size = last.shape[2:]
        pooled = [
            F.interpolate(pool(last), size, mode="bilinear", align_corners=False)
            for pool in self.psp_modules
        ]
        return self.bottleneck(torch.cat([last, *pooled], dim=1))


class FCNHead(nn.Module):
    """One convolution and a classifier (Long et al. 2015) on one of the maps."""

    def __init__(self, dim: int, num_classes: int, heads: HeadSection) -> None:
        super().__init__()
        self.convs = nn.ModuleList([ConvNorm(dim, heads.auxiliary_channels, 3)])
        self.dropout = nn.Dropout2d(heads.dropout)
        self.conv_seg = _classifier(heads.auxiliary_channels, num_classes)

    def forward(self, last: Tensor) -> Tensor:
        """Logits (batch, class, row, column) of a map (batch, dim, row, column)."""
        for conv in self.convs:
            last = conv(last)
        return self.conv_seg(self.dropout(last))


def _classifier(channels: int, num_classes: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
