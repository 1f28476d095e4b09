"""Models of microscopy images, in which every channel has its own tokens."""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from fastvim.encoder import Encoder, EncoderOptions, make_norm
from fastvim.head import check_final_pool, new_head, pool_and_classify
from fastvim.patch_embed import ChannelPatchEmbed, grid_size
from fastvim.positions import (
    class_place,
    insert_token,
    new_positions,
    resize_positions,
    split_class_row,
)
from fastvim.pretrained import given
from fastvim.timm_methods import TimmClassifier
from fastvim.traversal import SEQUENCE, Traversal, channel_cycle
from fastvim.trunk import is_colwise

SCAN_ORDERS = ("channel-first", "spatial-first")

Channels = Tensor | Sequence[int] | Sequence[Sequence[int]] | None


class ChannelModel(TimmClassifier):
    """One token a patch and channel, for any subset of the trained channels.

    img_size : trained image size in px, a side or (height, width); other sizes resize positions.
    in_chans : number of trained channels.
    scan_order : "channel-first" (row, column, channel, the channel fastest) or "spatial-first"
        (channel, row, column).
    hcs : hierarchical channel sampling (ChannelViT): in training, `forward` draws a number of
        channels and then that many channels, once a batch, from torch's random numbers.
    channel_std : standard deviation of the channel embeddings at the start. 0.02 is published; with
        1, channels differ from the first step, which short trainings need: on the simulated plates
        36 epochs of micro_patch16 reached a balanced accuracy of 0.64 on held-out wells, not 0.54.
    scanpath_type, if_abs_pos_embed : as in `ImageTrunk`. final_pool_type : as in `FastVim`.
    """

    def __init__(
        self,
        traversals: Sequence[Traversal],
        *,
        img_size: int | Sequence[int],
        patch_size: int,
        in_chans: int,
        num_classes: int,
        embed_dim: int,
        depth: int,
        scan_order: str,
        scanpath_type: str,
        if_abs_pos_embed: bool,
        final_pool_type: str,
        hcs: bool,
        channel_std: float,
        **encoder: Unpack[EncoderOptions],
    ) -> None:
        super().__init__()
        self.patch_size, self.in_chans, self.num_classes = patch_size, in_chans, num_classes
        self.embed_dim, self.hcs = embed_dim, hcs
        self.channel_first = is_channel_first(scan_order)
        self.colwise = is_colwise(scanpath_type)
        self.final_pool_type = check_final_pool(final_pool_type)
        rows, columns = grid_size(img_size, patch_size)
        self.grid = (columns, rows) if self.colwise else (rows, columns)
        self.patch_embed = ChannelPatchEmbed(
            patch_size, in_chans, embed_dim, channel_std=channel_std
        )
        self.pos_embed = new_positions(rows * columns, embed_dim) if if_abs_pos_embed else None
        self.layers = Encoder(embed_dim, depth, traversals, **encoder)
        self.norm_f = make_norm(embed_dim, rms_norm=encoder.get("rms_norm", True))
        self.head = new_head(embed_dim, num_classes)

    def forward(self, x: Tensor | Sequence[Tensor], channels: Channels = None) -> Tensor:
        """Logits (batch, class) of images (batch, channel, height, width), normalised floats.

        x : or a list of images (channel, height, width), which may differ in channels and size;
            those of one shape go through the model together.
        channels : which trained channel each channel of `x` is, as indices (channel,), or for every
            image its own; None: all, in order.
        """
        if not isinstance(x, Tensor):
            return self._forward_mixed(x, channels)
        index = self._channel_index(x, channels)
        if self.training and self.hcs:
            drawn = draw_channels(x.shape[1]).to(x.device)
            x, index = x[:, drawn], index[..., drawn]
        tokens, class_token = self._encode(*self._embed_patches(x, index))
        if class_token is not None:
            return self.head(class_token)
        on_image = tokens.transpose(1, 2) if self.colwise else tokens
        return pool_and_classify(on_image.flatten(1, 3), self.final_pool_type, self.head)

    def forward_features(self, x: Tensor, channels: Channels = None) -> Tensor:
        """Patch tokens after the final norm, (batch, channel, row, column, dim)."""
        tokens, _ = self._encode(*self._embed_patches(x, self._channel_index(x, channels)))
        return tokens.permute(0, 3, *((2, 1) if self.colwise else (1, 2)), 4)

    def embed(self, x: Tensor, channels: Channels = None) -> tuple[Tensor, Tensor]:
        """Mean of all tokens, (batch, dim), and of each channel's, (batch, channel, dim).

        A model with a class token returns that for the mean of all.
        """
        embedded = self._embed_patches(x, self._channel_index(x, channels))
        tokens, class_token = self._encode(*embedded)
        per_channel = tokens.mean((1, 2))
        return per_channel.mean(1) if class_token is None else class_token, per_channel

    def _embed_patches(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens, (batch, row, column, channel, dim), and what is to be added to them.

        That is the channels' identities and the positions.
        """
        tokens, added = self.patch_embed(x, index)
        if self.colwise:
            tokens = tokens.transpose(1, 2)
        if self.pos_embed is not None:
            positions = resize_positions(self.pos_embed, self.grid, tokens.shape[1:3])
            added = added + positions.unsqueeze(3)
        return tokens, added

    def _encode(self, tokens: Tensor, added: Tensor) -> tuple[Tensor, Tensor | None]:
        """Patch tokens after the final norm, of the same shape, and the class token if any."""
        return self.layers(tokens, self.norm_f, positions=added), None

    def _forward_mixed(self, images: Sequence[Tensor], channels: Channels) -> Tensor:
        """Logits of images of several shapes, in their order."""
        groups: dict[torch.Size, list[int]] = {}
        for place, image in enumerate(images):
            groups.setdefault(image.shape, []).append(place)
        own = channels is not None and not isinstance(channels[0], int)
        parts = []
        for places in groups.values():
            chosen = [channels[place] for place in places] if own else channels  # type: ignore[index]
            parts.append(self(torch.stack([images[place] for place in places]), chosen))
        order = torch.tensor([place for places in groups.values() for place in places])
        return torch.cat(parts)[order.argsort().to(parts[0].device)]

    def _channel_index(self, x: Tensor, channels: Channels) -> Tensor:
        """Check `channels` against the image and the trained channels."""
        if channels is None:
            index = torch.arange(self.in_chans, device=x.device)
        else:
            index = torch.as_tensor(channels, dtype=torch.long)
        if x.ndim != 4 or index.shape not in ((x.shape[1],), x.shape[:2]):
            raise ValueError(
                f"{type(self).__name__}: expected images (batch, channel, height, width) with "
                f"{index.shape[-1]} channels, one for each of channels={index.tolist()}, "
                f"got {tuple(x.shape)}. Name the trained channel of each image channel"
            )
        # all channels need no check; reading values would break a compiled or recorded graph
        if (
            channels is None
            or torch.compiler.is_compiling()
            or (x.is_cuda and torch.cuda.is_current_stream_capturing())
        ):
            return index.to(x.device)
        if index.numel() == 0 or index.min() < 0 or index.max() >= self.in_chans:
            raise IndexError(
                f"{type(self).__name__}: expected at least one channel index in "
                f"0..{self.in_chans - 1}, got {index.tolist()}"
            )
        return index.to(x.device)


def draw_channels(count: int) -> Tensor:
    """Draw 1..count channels: the number uniformly, then which, sorted."""
    number = int(torch.randint(1, count + 1, ()))
    return torch.randperm(count)[:number].sort().values


def is_channel_first(scan_order: str) -> bool:
    """Whether the channel is the fastest axis; ValueError for an unknown order."""
    if scan_order not in SCAN_ORDERS:
        raise ValueError(f"scan_order: expected one of {[*SCAN_ORDERS]}, got {scan_order!r}")
    return scan_order == "channel-first"


class FastChannelVim(ChannelModel):
    """FastVim on the tokens of every channel: pools columns or rows, each channel apart.

    rotate_every_block : odd blocks scan columns and pool rows; else all scan rows.
    compress_2d : pool two axes at a time: blocks scan rows, columns and channels in turn.
    The other options are those of `ChannelModel` and `EncoderOptions`.
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
        rotate_every_block: bool = True,
        compress_2d: bool = False,
        scanpath_type: str = "rowwise",
        if_abs_pos_embed: bool = True,
        final_pool_type: str = "mean",
        hcs: bool = True,
        channel_std: float = 0.02,
        **encoder: Unpack[EncoderOptions],
    ) -> None:
        options = given(locals())
        own = {name: options.pop(name) for name in ("rotate_every_block", "compress_2d")}
        traversals = channel_cycle(
            channel_first=is_channel_first(scan_order),
            rotate=rotate_every_block,
            compress_2d=compress_2d,
        )
        super().__init__(traversals, **options)
        self.options = options | own


class ChannelVim(ChannelModel):
    """Vim on the tokens of every channel: all in one sequence, around a class token.

    class_token : "middle" or "head" of the sequence. It has no position, and it is classified
        whatever `final_pool_type` says. The other options are those of `ChannelModel`.
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
        class_token: str = "middle",
        scanpath_type: str = "rowwise",
        if_abs_pos_embed: bool = True,
        hcs: bool = True,
        channel_std: float = 0.02,
        **encoder: Unpack[EncoderOptions],
    ) -> None:
        options = given(locals())
        place = options.pop("class_token")
        if place not in ("middle", "head"):
            raise ValueError(f"class_token: expected 'middle' or 'head', got {place!r}")
        super().__init__(SEQUENCE, final_pool_type="mean", **options)
        self.options = options | {"class_token": place}
        self.class_token = place
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, embed_dim), std=0.02))

    def _encode(self, tokens: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
        """Patch tokens after the final norm, of the same shape, and the class token."""
        tokens = tokens + added
        if not self.channel_first:
            tokens = tokens.permute(0, 3, 1, 2, 4)
        place = class_place(self.class_token, tokens.shape[1:4].numel())
        sequence = insert_token(tokens.flatten(1, 3), self.cls_token, place)
        class_token, others = split_class_row(self.layers(sequence, self.norm_f), place)
        encoded = others.view(tokens.shape)
        if not self.channel_first:
            encoded = encoded.permute(0, 2, 3, 1, 4)
        return encoded, class_token[:, 0]
