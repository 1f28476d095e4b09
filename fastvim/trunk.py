"""What image classifiers and dense backbones share: images to tokens, and the blocks."""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from fastvim.encoder import Encoder, EncoderOptions
from fastvim.patch_embed import PatchEmbed, grid_size
from fastvim.positions import (
    class_place,
    insert_token,
    new_positions,
    resize_positions,
    split_class_row,
)
from fastvim.timm_methods import TimmModel
from fastvim.traversal import SEQUENCE, Traversal

SCAN_PATHS = ("rowwise", "colwise")
CLASS_TOKENS = ("middle", "head", "none")

Grid = tuple[int, int]


def is_colwise(scanpath_type: str) -> bool:
    """Whether the grid is transposed before the blocks; ValueError for an unknown path."""
    if scanpath_type not in SCAN_PATHS:
        raise ValueError(f"scanpath_type: expected one of {[*SCAN_PATHS]}, got {scanpath_type!r}")
    return scanpath_type == "colwise"


class ImageTrunk(TimmModel):
    """Patches, positions, class token and blocks of an image model.

    img_size : trained image size in px, a side or (height, width). Other sizes are padded to whole
        patches, and positions are resized.
    in_chans : image channels.
    scanpath_type : "rowwise", or "colwise" to transpose the patch grid before everything else;
        positions are then stored column by column.
    if_abs_pos_embed : learned positions; without them nothing tells a model its grid.
    class_token : "middle" or "head" of the sequence, or "none".
    traversals : of successive blocks, on the grid; None scans the sequence of all tokens, which a
        class token needs.
    """

    def __init__(
        self,
        traversals: Sequence[Traversal] | None,
        *,
        img_size: int | Sequence[int],
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        depth: int,
        scanpath_type: str,
        if_abs_pos_embed: bool,
        class_token: str = "none",
        **encoder: Unpack[EncoderOptions],
    ) -> None:
        super().__init__()
        if class_token not in CLASS_TOKENS:
            raise ValueError(f"class_token: expected one of {[*CLASS_TOKENS]}, got {class_token!r}")
        self.patch_size, self.in_chans, self.embed_dim = patch_size, in_chans, embed_dim
        self.colwise, self.class_token = is_colwise(scanpath_type), class_token
        self.sequential = traversals is None
        rows, columns = grid_size(img_size, patch_size)
        self.grid: Grid = (columns, rows) if self.colwise else (rows, columns)
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim)
        extra = 0
        if class_token != "none":
            extra = 1
            self.cls_token = nn.Parameter(
                nn.init.trunc_normal_(torch.empty(1, 1, embed_dim), std=0.02)
            )
        count = rows * columns + extra
        self.pos_embed = new_positions(count, embed_dim) if if_abs_pos_embed else None
        self.layers = Encoder(embed_dim, depth, traversals or SEQUENCE, **encoder)

    def tokens(self, x: Tensor) -> tuple[Tensor, Tensor | None, Grid]:
        """Tokens before the first block, their positions, and their grid as the blocks see it.

        x : images (batch, channel, height, width).

        Returns tokens (batch, row, column, dim), or (batch, token, dim) for sequences; and what
        `Encoder.states` is to add to them, with a batch of one, or None where it has been.
        """
        tokens = self.patch_embed(x)
        if self.colwise:
            tokens = tokens.transpose(1, 2)
        rows, columns = tokens.shape[1:3]
        class_token = getattr(self, "cls_token", None)
        positions: Tensor | None = self.pos_embed
        if positions is not None:
            if class_token is not None:
                trained = class_place(self.class_token, positions.shape[1] - 1)
                class_position, positions = split_class_row(positions, trained)
                class_token = class_token + class_position
            positions = resize_positions(positions, self.grid, (rows, columns))
        if self.sequential:
            tokens = tokens.flatten(1, 2)
            positions = None if positions is None else positions.flatten(1, 2)
        if class_token is not None:
            place = class_place(self.class_token, rows * columns)
            tokens = tokens if positions is None else tokens + positions
            tokens, positions = insert_token(tokens, class_token, place), None
        return tokens, positions, (rows, columns)

    def on_grid(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Patch tokens after a block as a map, (batch, row, column, dim)."""
        if self.class_token != "none":
            place = class_place(self.class_token, grid[0] * grid[1])
            _, tokens = split_class_row(tokens, place)
        maps = tokens.view(tokens.shape[0], *grid, -1)
        return maps.transpose(1, 2) if self.colwise else maps
