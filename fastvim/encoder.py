"""A stack of blocks over a token grid."""

import math
from collections.abc import Sequence
from itertools import cycle, islice
from typing import TypedDict, cast

import torch
from fastvim_kernels import add_norm, norm_project
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastvim.mixer import Directions, Mixer, join_directions
from fastvim.traversal import KeptTokens, KeptWalk, Traversal

EPS = 1e-5

State = tuple[Tensor, Tensor | None]
"""The last mixer's output, and the float32 residual stream that it is yet to be added to.

Before the first block: the tokens, and their positions.
"""


def make_norm(dim: int, *, rms_norm: bool) -> nn.RMSNorm | nn.LayerNorm:
    """RMSNorm, or LayerNorm with a bias."""
    return nn.RMSNorm(dim, eps=EPS) if rms_norm else nn.LayerNorm(dim, eps=EPS)


def drop_path(hidden: Tensor, rate: float, *, training: bool) -> Tensor:
    """Zero whole samples with probability `rate`, and scale the others to keep the mean."""
    if not training or rate == 0:
        return hidden
    kept = torch.rand(hidden.shape[0], *[1] * (hidden.ndim - 1), device=hidden.device) >= rate
    return hidden * kept.to(hidden.dtype) / (1 - rate)


def _parameters(norm: nn.RMSNorm | nn.LayerNorm) -> tuple[Tensor, Tensor | None]:
    """Weight and bias, of which an RMSNorm has none."""
    return norm.weight, getattr(norm, "bias", None)


def _normed_sum(state: State, norm: nn.RMSNorm | nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Add both parts of a state and normalise: in the tokens' dtype, and the sum in float32."""
    return add_norm(*state, *_parameters(norm), EPS)


class Block(nn.Module):
    """Add, norm, mixer; carries the mixer's output and the float32 residual stream apart.

    It applies the mixer's `in_proj` with the norm, in one operation where all tokens are there:
    neither is then called as a module, and hooks on them do not run.
    """

    def __init__(self, mixer: Mixer, norm: nn.RMSNorm | nn.LayerNorm, drop_rate: float) -> None:
        super().__init__()
        self.norm = norm
        self.mixer = mixer
        self.drop_rate = drop_rate

    def forward(
        self,
        hidden: Tensor,
        residual: Tensor | None,
        walk: KeptWalk | None = None,
        both: Directions | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Tokens are (batch, *grid, dim), or (batch, token, dim) with the `walk` over them.

        `both` are the mixer's of `join_directions`, where they are joined already.
        """
        hidden = drop_path(hidden, self.drop_rate, training=self.training)
        in_proj = self.mixer.in_proj
        if walk is None:
            projected, residual = norm_project(
                hidden, residual, *_parameters(self.norm), in_proj.weight, EPS
            )
            return self.mixer(projected, both=both), residual
        normed, residual = _normed_sum((hidden, residual), self.norm)
        mixed = self.mixer(in_proj(walk.arrange(normed)), walk, both)
        return walk.restore(mixed), residual


class EncoderOptions(TypedDict, total=False):
    """Options that every model hands to its encoder.

    collapse_method
        Pooling before the scan, "mean" (default) or "max".
    scaling_factor
        Factor on mean-pooled tokens; 0.25 after pre-training with 75 % of the tokens masked.
    use_norm_after_ssm
        LayerNorm between scan and gate (default). The gate stays without it.
    init_layer_scale
        Start of a learned factor on each block's output channels; None (default) leaves it out.
    rms_norm
        RMSNorm before each mixer and at the end, or LayerNorm.
    drop_path_rate
        Probability that the last block's output is dropped in training; the rates rise linearly
        from 0 at the first block's output.
    """

    collapse_method: str
    scaling_factor: float
    use_norm_after_ssm: bool
    init_layer_scale: float | None
    rms_norm: bool
    drop_path_rate: float


class Encoder(nn.ModuleList):
    """Blocks along traversals that repeat; names its parameters as a plain list of blocks.

    dim : width of the tokens. traversals : of successive blocks, repeated to `depth` blocks.
    The other options are `EncoderOptions`.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        traversals: Sequence[Traversal],
        *,
        collapse_method: str = "mean",
        scaling_factor: float = 1.0,
        use_norm_after_ssm: bool = True,
        init_layer_scale: float | None = None,
        rms_norm: bool = True,
        drop_path_rate: float = 0.0,
    ) -> None:
        # each block drops the output of the block before it, and `finish` that of the last
        rates = [0.0, *(drop_path_rate * block / max(1, depth - 1) for block in range(depth))]
        blocks = []
        for traversal, rate in zip(islice(cycle(traversals), depth), rates, strict=False):
            mixer = Mixer(
                dim,
                traversal,
                method=collapse_method,
                pool_scale=scaling_factor,
                norm=use_norm_after_ssm,
                layer_scale=init_layer_scale,
            )
            nn.init.kaiming_uniform_(mixer.out_proj.weight, a=math.sqrt(5))
            with torch.no_grad():
                mixer.out_proj.weight /= math.sqrt(depth)
            blocks.append(Block(mixer, make_norm(dim, rms_norm=rms_norm), rate))
        super().__init__(blocks)
        self.drop_path_rate = drop_path_rate
        self.grad_checkpointing = False

    def states(
        self,
        tokens: Tensor,
        blocks: Sequence[int],
        kept: KeptTokens | None = None,
        positions: Tensor | None = None,
    ) -> list[State]:
        """States after the given blocks, in their order in the network; runs none beyond the last.

        tokens : (batch, *grid, dim), or (batch, token, dim) with `kept`.
        positions : what is to be added to the tokens, of a shape that expands to theirs. The first
            block takes it for its residual stream, so that the sum takes no pass of its own.
        """
        if positions is not None:
            positions = positions.expand_as(tokens)
            # without gradients a parameter's view still asks for them, and hooks find no history
            positions = positions if torch.is_grad_enabled() else positions.detach()
        state: State = (tokens, positions)
        walks: dict[Traversal, KeptWalk] = {}
        states = []
        run = cast(list[Block], list(islice(self, max(blocks) + 1)))
        joined = join_directions([block.mixer for block in run])
        for index, (block, both) in enumerate(zip(run, joined, strict=True)):
            traversal = block.mixer.traversal
            if kept is not None and traversal not in walks:
                walks[traversal] = kept.along(traversal)
            walk = walks.get(traversal)
            if self.grad_checkpointing and torch.is_grad_enabled():
                state = checkpoint(block, *state, walk, both, use_reentrant=False)
            else:
                state = block(*state, walk, both)
            if index in blocks:
                states.append(state)
        return states

    def finish(self, state: State, norm: nn.RMSNorm | nn.LayerNorm) -> Tensor:
        """Add the last block's output to the residual stream and normalise."""
        hidden, residual = state
        return _normed_sum(
            (drop_path(hidden, self.drop_path_rate, training=self.training), residual), norm
        )[0]

    def forward(
        self,
        tokens: Tensor,
        norm: nn.RMSNorm | nn.LayerNorm,
        kept: KeptTokens | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Run all blocks and the model's final norm; the shape of `tokens`."""
        (state,) = self.states(tokens, [len(self) - 1], kept, positions)
        return self.finish(state, norm)
