"""Backbones for segmentation and detection: maps of chosen blocks."""

from collections.abc import Sequence
from typing import Any, Unpack

from torch import Tensor, nn

from fastvim.encoder import EPS, EncoderOptions
from fastvim.pretrained import given
from fastvim.traversal import Traversal, image_cycle
from fastvim.trunk import ImageTrunk


class DenseBackbone(ImageTrunk):
    """A trunk that returns one map for each of `out_indices`, all at the stride of a patch.

    A map is the LayerNorm (`outnorm_0` …) of a block's own output, without the residual stream, as
    in the published ADE20K and COCO models; with `residual_stream`, of the sum of both, which is
    what the block after it sees.
    """

    def __init__(
        self,
        traversals: Sequence[Traversal] | None,
        *,
        out_indices: Sequence[int],
        residual_stream: bool = False,
        **trunk: Any,
    ) -> None:
        super().__init__(traversals, **trunk)
        depth = len(self.layers)
        known = {block % depth for block in out_indices if -depth <= block < depth}
        if not out_indices or len(known) != len(out_indices):
            raise ValueError(
                f"out_indices: expected different blocks in 0..{depth - 1}, got {list(out_indices)}"
            )
        self.out_indices = sorted(known)
        self.residual_stream = residual_stream
        for number in range(len(known)):
            self.add_module(f"outnorm_{number}", nn.LayerNorm(self.embed_dim, eps=EPS))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps (batch, dim, row, column), in the blocks' order, of (batch, channel, height, width).

        A side that the patch does not divide is padded, so its last row or column is partly empty.
        """
        tokens, positions, grid = self.tokens(x)
        states = self.layers.states(tokens, self.out_indices, positions=positions)
        maps = []
        for number, (hidden, residual) in enumerate(states):
            if self.residual_stream and residual is not None:
                hidden = hidden + residual
            normed = self.get_submodule(f"outnorm_{number}")(hidden)
            maps.append(self.on_grid(normed, grid).permute(0, 3, 1, 2))
        return maps


class DenseFastVim(DenseBackbone):
    """FastVim's blocks as a dense backbone; options as in `FastVim`, but LayerNorm by default."""

    def __init__(
        self,
        *,
        img_size: int | Sequence[int] = 512,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 192,
        depth: int = 24,
        out_indices: Sequence[int] = (5, 11, 17, 23),
        rotate_every_block: bool = True,
        scanpath_type: str = "rowwise",
        if_abs_pos_embed: bool = True,
        residual_stream: bool = False,
        **encoder: Unpack[EncoderOptions],
    ) -> None:
        options = {"rms_norm": False, **given(locals())}
        rotate = options.pop("rotate_every_block")
        super().__init__(image_cycle(rotate=rotate), **options)
        self.options = options | {"rotate_every_block": rotate}


class DenseVim(DenseBackbone):
    """Vim's blocks as a dense backbone, without a class token; LayerNorm by default."""

    def __init__(
        self,
        *,
        img_size: int | Sequence[int] = 512,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 192,
        depth: int = 24,
        out_indices: Sequence[int] = (5, 11, 17, 23),
        scanpath_type: str = "rowwise",
        if_abs_pos_embed: bool = True,
        residual_stream: bool = False,
        **encoder: Unpack[EncoderOptions],
    ) -> None:
        options = {"rms_norm": False, **given(locals())}
        super().__init__(None, **options)
        self.options = options
