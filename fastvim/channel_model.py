"""FastChannelVim: every channel of a microscopy image has its own tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastvim.encoder import Encoder
from fastvim.patch_embed import (
    ChannelPatchEmbed,
    grid_size,
    new_head,
    new_positions,
    resize_positions,
)
from fastvim.pretrained import Pretrained
from fastvim.traversal import CHANNEL_BY_CHANNEL, SPATIAL, alternate

SCAN_ORDERS = {"channel-first": SPATIAL, "spatial-first": CHANNEL_BY_CHANNEL}

Channels = Tensor | Sequence[int] | None


class FastChannelVim(Pretrained, Encoder):
    """FastVim on one token a patch and channel, for any subset of the trained channels.

    img_size : trained image size in px, a side or (height, width); other sizes resize positions.
    in_chans : number of trained channels.
    scan_order : "channel-first" (row, column, channel, the channel fastest) or "spatial-first"
        (channel, row, column).
    collapse_method : pooling before the scan, "mean" or "max".
    rotate_every_block : odd blocks scan columns and pool rows; else all scan rows.
    drop_path_rate : probability that the last block's output is dropped in training.
    hcs : hierarchical channel sampling (ChannelViT): in training, `forward` draws a number of
        channels and then that many channels, once a batch, from torch's random numbers.
    channel_std : standard deviation of the channel embeddings at the start. 0.02 is published; with
        1, channels differ from the first step, which short trainings need: on the simulated plates
        36 epochs of micro_patch16 reached a balanced accuracy of 0.64 on held-out wells, not 0.54.
    """

    def __init__(
        self,
        *,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_chans: int = 8,
        num_classes: int = 161,
        embed_dim: int = 384,
        depth: int = 24,
        scan_order: str = "channel-first",
        collapse_method: str = "mean",
        rotate_every_block: bool = True,
        drop_path_rate: float = 0.0,
        hcs: bool = True,
        channel_std: float = 0.02,
    ) -> None:
        options = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        if scan_order not in SCAN_ORDERS:
            raise ValueError(f"scan_order: expected one of {[*SCAN_ORDERS]}, got {scan_order!r}")
        super().__init__(
            embed_dim,
            alternate(SCAN_ORDERS[scan_order], depth, rotate=rotate_every_block),
            drop_path_rate=drop_path_rate,
            collapse_method=collapse_method,
        )
        self.options = options
        self.patch_size, self.in_chans, self.num_classes = patch_size, in_chans, num_classes
        self.embed_dim, self.hcs = embed_dim, hcs
        self.grid = grid_size(img_size, patch_size)
        self.patch_embed = ChannelPatchEmbed(
            patch_size, in_chans, embed_dim, channel_std=channel_std
        )
        self.pos_embed = new_positions(self.grid, embed_dim)
        self.head = new_head(embed_dim, num_classes)

    def forward(self, x: Tensor, channels: Channels = None) -> Tensor:
        """Logits (batch, class) of images (batch, channel, height, width), normalised floats.

        channels : which trained channel each channel of `x` is, as indices; None: all, in order.
        """
        index = self._channel_index(x, channels)
        if self.training and self.hcs:
            drawn = draw_channels(len(index)).to(x.device)
            x, index = x[:, drawn], index[drawn]
        return self.head(self._tokens(x, index).mean((1, 2, 3)))

    def forward_features(self, x: Tensor, channels: Channels = None) -> Tensor:
        """Tokens after the final norm, (batch, channel, row, column, dim)."""
        return self._tokens(x, self._channel_index(x, channels)).permute(0, 3, 1, 2, 4)

    def embed(self, x: Tensor, channels: Channels = None) -> tuple[Tensor, Tensor]:
        """Mean of all tokens, (batch, dim), and of each channel's, (batch, channel, dim)."""
        per_channel = self._tokens(x, self._channel_index(x, channels)).mean((1, 2))
        return per_channel.mean(1), per_channel

    def _tokens(self, x: Tensor, index: Tensor) -> Tensor:
        """Tokens after the final norm, (batch, row, column, channel, dim)."""
        tokens = self.patch_embed(x, index)
        return self.encode(tokens + resize_positions(self.pos_embed, self.grid, tokens.shape[1:3]))

    def _channel_index(self, x: Tensor, channels: Channels) -> Tensor:
        """Check `channels` against the image and the trained channels."""
        if channels is None:
            channels = range(self.in_chans)
        index = torch.as_tensor(channels, dtype=torch.long)
        if x.ndim != 4 or x.shape[1] != len(index):
            raise ValueError(
                f"FastChannelVim: expected images (batch, channel, height, width) with "
                f"{len(index)} channels, one for each of channels={index.tolist()}, "
                f"got {tuple(x.shape)}. Name the trained channel of each image channel"
            )
        if len(index) == 0 or index.min() < 0 or index.max() >= self.in_chans:
            raise IndexError(
                f"FastChannelVim: expected at least one channel index in 0..{self.in_chans - 1}, "
                f"got {index.tolist()}"
            )
        return index.to(x.device)


def draw_channels(count: int) -> Tensor:
    """Draw 1..count channels: the number uniformly, then which, sorted."""
    number = int(torch.randint(1, count + 1, ()))
    return torch.randperm(count)[:number].sort().values
