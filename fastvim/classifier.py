"""FastVim image classifier."""

from collections.abc import Sequence

from torch import Tensor

from fastvim.encoder import Encoder
from fastvim.patch_embed import (
    PatchEmbed,
    grid_size,
    new_head,
    new_positions,
    resize_positions,
)
from fastvim.pretrained import Pretrained
from fastvim.traversal import SPATIAL, alternate


class FastVim(Pretrained, Encoder):
    """Vision Mamba with pooling (FastVim): even blocks scan rows, odd blocks columns.

    img_size : trained image size in px, a side or (height, width); other sizes resize positions.
    in_chans : image channels. collapse_method : pooling before the scan, "mean" or "max".
    scaling_factor : factor on mean-pooled tokens, 0.25 after pre-training with 75 % masked.
    """

    def __init__(
        self,
        *,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 192,
        depth: int = 24,
        collapse_method: str = "mean",
        rotate_every_block: bool = True,
        scaling_factor: float = 1.0,
        use_norm_after_ssm: bool = True,
        drop_path_rate: float = 0.0,
    ) -> None:
        options = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__(
            embed_dim,
            alternate(SPATIAL, depth, rotate=rotate_every_block),
            drop_path_rate=drop_path_rate,
            collapse_method=collapse_method,
            pool_scale=scaling_factor,
            norm_after_scan=use_norm_after_ssm,
        )
        self.options = options
        self.patch_size, self.in_chans, self.num_classes = patch_size, in_chans, num_classes
        self.embed_dim = embed_dim
        self.grid = grid_size(img_size, patch_size)
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim)
        self.pos_embed = new_positions(self.grid, embed_dim)
        self.head = new_head(embed_dim, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens after the final norm, (batch, row, column, dim)."""
        tokens = self.patch_embed(x)
        tokens = tokens + resize_positions(self.pos_embed, self.grid, tokens.shape[1:3])
        return self.encode(tokens).squeeze(3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (batch, class), from images (batch, channel, height, width)."""
        return self.head(self.forward_features(x).mean((1, 2)))
