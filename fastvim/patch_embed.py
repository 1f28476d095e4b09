"""Images to patch tokens, positions for grids of any size, and the head at the other end."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from fastvim_kernels.operation import product_dtype
from torch import Tensor, nn


def grid_size(image: int | Sequence[int], patch: int) -> tuple[int, int]:
    """Rows and columns of patches that cover an image: its side, or (height, width), in px."""
    height, width = (image, image) if isinstance(image, int) else image
    return math.ceil(height / patch), math.ceil(width / patch)


def cut_patches(images: Tensor, patch: int, dtype: torch.dtype | None = None) -> Tensor:
    """Cut images into patches, zero-padded on the right and bottom to whole ones.

    images : (batch, channel, height, width). dtype : of the result, if not that of the images.

    Returns (batch, row, column, channel, patch * patch).
    """
    batch, channel, height, width = images.shape
    rows, columns = grid_size((height, width), patch)
    if (height, width) != (rows * patch, columns * patch):
        images = F.pad(images, (0, columns * patch - width, 0, rows * patch - height))
    cut = images.reshape(batch, channel, rows, patch, columns, patch)
    cut = cut.permute(0, 2, 4, 1, 3, 5)
    return cut.to(dtype or cut.dtype, memory_format=torch.contiguous_format).flatten(4)  # one pass


def _projected(patches_of: nn.Conv2d | nn.Conv3d, images: Tensor, patch: int, axis: int) -> Tensor:
    """Project patches, flattened from `axis` on, with a convolution that strides by the patch."""
    patches = cut_patches(images, patch, product_dtype(images)).flatten(axis)
    return F.linear(patches, patches_of.weight.flatten(1), patches_of.bias)


def lecun_normal_(projection: nn.Conv2d | nn.Conv3d) -> None:
    """Truncated normal weights of variance 1 / fan-in, and a zero bias."""
    # a normal distribution cut at two deviations keeps 0.8796 of its deviation
    deviation = projection.weight[0].numel() ** -0.5 / 0.8796256610342398
    nn.init.trunc_normal_(projection.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    nn.init.zeros_(projection.bias)  # type: ignore[arg-type]


class PatchEmbed(nn.Module):
    """One token a patch, from all channels together."""

    def __init__(self, patch: int, channels: int, dim: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)
        lecun_normal_(self.proj)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channel, height, width) to (batch, row, column, dim).

        Raises ValueError for another number of axes or channels.
        """
        if images.ndim != 4 or images.shape[1] != self.proj.in_channels:
            raise ValueError(
                f"expected images (batch, channel, height, width) with {self.proj.in_channels} "
                f"channels, got {tuple(images.shape)}"
            )
        return _projected(self.proj, images, self.patch, 3)


class ChannelPatchEmbed(nn.Module):
    """One token a patch and channel: one projection for all, plus a learned channel identity."""

    def __init__(self, patch: int, channels: int, dim: int, *, channel_std: float) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv3d(1, dim, (1, patch, patch), stride=(1, patch, patch))
        self.channel_embed = nn.Embedding(channels, dim)
        lecun_normal_(self.proj)
        nn.init.normal_(self.channel_embed.weight, std=channel_std)

    def forward(self, images: Tensor, channels: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, channel, height, width) to (batch, row, column, channel, dim).

        channels : identity of each channel, (channel,) or for every image (batch, channel).

        Returns the tokens, and what is to be added to them for their channel's identity,
        (1 or batch, 1, 1, channel, dim).
        """
        tokens = _projected(self.proj, images, self.patch, 4)
        identity = self.channel_embed(channels)
        return tokens, identity[:, None, None] if channels.ndim == 2 else identity[None, None, None]
