"""Simple feature pyramid: five scales from the one map of a plain backbone."""

from torch import Tensor, nn

from natural_images.detection.layers import ConvBlock, LayerNorm2d

ROI_LEVELS = 4
"""Maps from which RoIs are taken; the fifth, coarsest one is for region proposals alone."""


def pyramid_strides(patch: int) -> list[int]:
    """Px between the places of each map, for patches whose side is a multiple of 4."""
    return [patch // 4, patch // 2, patch, patch * 2, patch * 4]


class SimpleFeaturePyramid(nn.Module):
    """Maps at ¼, ½, 1, 2 and 4 times the stride of a patch (Li et al. 2022, ViTDet, section 3).

    Each scale comes from the last map on its own, by transposed convolutions, not at all, or by
    max-pooling; there is no path from coarse to fine. 1 × 1 and 3 × 3 convolutions with LayerNorm
    follow. The coarsest map is every second place of the one before it.
    """

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        half, quarter = dim // 2, dim // 4
        self.fpn1 = nn.Sequential(
            nn.ConvTranspose2d(dim, half, 2, 2),
            LayerNorm2d(half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, 2),
        )
        self.fpn2 = nn.Sequential(nn.ConvTranspose2d(dim, half, 2, 2))
        self.fpn3 = nn.Sequential(nn.Identity())
        # Odd sides round up, so that every map covers the whole image.
        self.fpn4 = nn.Sequential(nn.MaxPool2d(2, 2, ceil_mode=True))
        self.lateral_convs = nn.ModuleList(
            ConvBlock(inner, channels, 1, norm=True, relu=False)
            for inner in (quarter, half, dim, dim)
        )
        self.fpn_convs = nn.ModuleList(
            ConvBlock(channels, channels, 3, norm=True, relu=False) for _ in range(ROI_LEVELS)
        )
        for block in [*self.lateral_convs, *self.fpn_convs]:
            nn.init.xavier_uniform_(block.conv.weight)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Five maps (batch, channel, row, column), finest first, of (batch, dim, row, column)."""
        scales = (self.fpn1, self.fpn2, self.fpn3, self.fpn4)
        maps = [
            conv(lateral(scale(x)))
            for scale, lateral, conv in zip(scales, self.lateral_convs, self.fpn_convs, strict=True)
        ]
        return [*maps, maps[-1][:, :, ::2, ::2]]
