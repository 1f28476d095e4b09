"""A stack of blocks over a token grid."""

import math
from collections.abc import Sequence

import torch
from fastvim_kernels import add_norm
from torch import Tensor, nn

from fastvim.mixer import Mixer
from fastvim.traversal import Traversal

EPS = 1e-5


def drop_path(hidden: Tensor, rate: float, *, training: bool) -> Tensor:
    """Zero whole samples with probability `rate`, and scale the others to keep the mean."""
    if not training or rate == 0:
        return hidden
    kept = torch.rand(len(hidden), *[1] * (hidden.ndim - 1), device=hidden.device) >= rate
    return hidden * kept.to(hidden.dtype) / (1 - rate)


class Block(nn.Module):
    """Add, norm, mixer; carries the mixer's output and the float32 residual stream apart."""

    def __init__(self, mixer: Mixer, dim: int, drop_rate: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(dim, eps=EPS)
        self.mixer = mixer
        self.drop_rate = drop_rate

    def forward(self, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both are (batch, row, column, channel, dim)."""
        hidden = drop_path(hidden, self.drop_rate, training=self.training)
        normed, residual = add_norm(hidden, residual, self.norm.weight, eps=EPS)
        return self.mixer(normed), residual


class Encoder(nn.Module):
    """Base of the models: blocks along given traversals, and the norm after the last.

    A block drops the output of the block before it, so that the rates of `drop_path_rate` rise
    linearly from 0 at the first block's output to the full rate at the last's.
    """

    def __init__(
        self,
        dim: int,
        traversals: Sequence[Traversal],
        *,
        drop_path_rate: float = 0.0,
        collapse_method: str = "mean",
        pool_scale: float = 1.0,
        norm_after_scan: bool = True,
    ) -> None:
        super().__init__()
        if collapse_method not in ("mean", "max"):
            raise ValueError(f"collapse_method: expected 'mean' or 'max', got {collapse_method!r}")
        depth = len(traversals)
        rates = [0.0, *(drop_path_rate * block / max(1, depth - 1) for block in range(depth))]
        self.drop_path_rate = drop_path_rate
        self.layers = nn.ModuleList()
        for traversal, rate in zip(traversals, rates, strict=False):
            mixer = Mixer(
                dim,
                traversal,
                method=collapse_method,
                pool_scale=pool_scale,
                norm=norm_after_scan,
            )
            nn.init.kaiming_uniform_(mixer.out_proj.weight, a=math.sqrt(5))
            with torch.no_grad():
                mixer.out_proj.weight /= math.sqrt(depth)
            self.layers.append(Block(mixer, dim, rate))
        self.norm_f = nn.RMSNorm(dim, eps=EPS)

    def encode(self, hidden: Tensor) -> Tensor:
        """Run the blocks and the final norm on (batch, row, column, channel, dim) tokens."""
        residual = None
        for layer in self.layers:
            hidden, residual = layer(hidden, residual)
        hidden = drop_path(hidden, self.drop_path_rate, training=self.training)
        return add_norm(hidden, residual, self.norm_f.weight, eps=EPS)[0]
