"""The FastVim mixer: convolve, pool, scan, expand, gate."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from fastvim_kernels import conv_pool, expand_norm_gate, mix, selective_scan
from fastvim_kernels.operation import product_dtype
from torch import Tensor, nn

from fastvim.traversal import KeptWalk, Traversal

STATE = 16
TAPS = 4
DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4


class Directions(NamedTuple):
    """Parameters of both directions, (2, ...) each."""

    conv: Tensor
    conv_bias: Tensor
    skip: Tensor
    x_proj: Tensor
    dt_proj: Tensor
    dt_bias: Tensor
    A_log: Tensor


class Mixer(nn.Module):
    """Mixes tokens along one traversal of the grid, in both directions (FastVim).

    Tokens that its block has projected to twice the width, with a gate beside them, are convolved,
    pooled, scanned, repeated over the pooled axes and gated. The directions share the projections
    and the norm; each has its own convolution, step sizes, inputs, outputs, decay rates and skip,
    the second's ending in ``_b``. Parameter names are those of the published checkpoints.

    dim : width of the tokens. method : pooling, "mean" or "max".
    pool_scale : factor on mean-pooled tokens. norm : LayerNorm before the gate.
    layer_scale : start of a learned factor on each output channel; None leaves it out.
    """

    def __init__(
        self,
        dim: int,
        traversal: Traversal,
        *,
        method: str = "mean",
        pool_scale: float = 1.0,
        norm: bool = True,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        if method not in ("mean", "max"):
            raise ValueError(f"collapse_method: expected 'mean' or 'max', got {method!r}")
        if not traversal.pooled and (method, pool_scale) != ("mean", 1.0):
            raise ValueError(
                f"collapse_method={method!r}, scaling_factor={pool_scale}: nothing is pooled here. "
                f"Leave them out"
            )
        inner, self.rank = 2 * dim, math.ceil(dim / 16)
        self.traversal, self.method, self.pool_scale = traversal, method, pool_scale
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.layernorm = nn.LayerNorm(inner) if norm else None
        self.conv1d = nn.Conv1d(inner, inner, TAPS, groups=inner)
        self.conv1d_b = nn.Conv1d(inner, inner, TAPS, groups=inner)
        self.x_proj = nn.Linear(inner, self.rank + 2 * STATE, bias=False)
        self.x_proj_b = nn.Linear(inner, self.rank + 2 * STATE, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.dt_proj_b = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.empty(inner, STATE))
        self.A_b_log = nn.Parameter(torch.empty(inner, STATE))
        self.D = nn.Parameter(torch.ones(inner))
        self.D_b = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self.gamma = None if layer_scale is None else nn.Parameter(torch.full((dim,), layer_scale))
        self._frozen: Directions | None = None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start both directions alike: steps log-uniform in [0.001, 0.1], decay rates 1 to 16."""
        for a_log in (self.A_log, self.A_b_log):
            a_log.copy_(torch.arange(1, STATE + 1).log().expand_as(a_log))
        for conv in (self.conv1d, self.conv1d_b):
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        for proj in (self.dt_proj, self.dt_proj_b):
            nn.init.uniform_(proj.weight, -(self.rank**-0.5), self.rank**-0.5)
            exponent = torch.empty_like(proj.bias).uniform_(math.log(DT_MIN), math.log(DT_MAX))
            step = exponent.exp().clamp(min=DT_FLOOR)
            proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # inverse of softplus

    def forward(
        self, projected: Tensor, walk: KeptWalk | None = None, both: Directions | None = None
    ) -> Tensor:
        """Mix tokens that `in_proj` was applied to, which a block does.

        projected : (batch, *grid, 4 * dim), axes as the traversal names them; with `walk`, only
            those tokens of the grid, in its order, (batch, token, 4 * dim).
        both : this mixer's of `join_directions`, where they are joined already.

        Returns (batch, *grid, dim), or (batch, token, dim).
        """
        both = both or join_directions([self])[0]
        norm: tuple[Tensor | None, Tensor | None] = (None, None)
        if self.layernorm is not None:
            norm = self.layernorm.weight, self.layernorm.bias
        if walk is not None:
            mixed = self._mix_kept(projected, walk, both, norm)
        else:
            mixed = mix(
                projected,
                *both,
                *norm,
                self.out_proj.weight,
                self.traversal.order,
                self.traversal.pool,
                self.method,
                self.pool_scale if self.method == "mean" else 1.0,
            )
        # not folded into the projection, whose weights would vanish in float16
        return mixed if self.gamma is None else mixed * self.gamma

    def _mix_kept(
        self,
        projected: Tensor,
        walk: KeptWalk,
        both: Directions,
        norm: tuple[Tensor | None, Tensor | None],
    ) -> Tensor:
        """Mix tokens of which some are missing."""
        x, z = projected.chunk(2, dim=-1)
        u, skipped = conv_pool(x, both.conv, both.conv_bias, both.skip, walk.pool)
        pooled = walk.mean(u) * self.pool_scale
        _, batch, step, _ = pooled.shape
        maps = pooled.flatten(1, 2) @ both.x_proj.mT
        dt, b, c = maps.split([maps.shape[-1] - 2 * STATE, STATE, STATE], dim=-1)
        dt, b, c = (v.unflatten(1, (batch, step)) for v in (dt @ both.dt_proj.mT, b, c))
        y = selective_scan(pooled, dt, both.dt_bias, both.A_log, b, c)
        return self.out_proj(expand_norm_gate(walk.expand(y), skipped, z, *norm, walk.pool))

    def freeze(self, dtype: torch.dtype) -> None:
        """Prepare for inference alone: products in `dtype`, parameters of both directions joined.

        What autocast and every call would do. Changes of the parameters have no effect afterwards.
        """
        (self._frozen,) = _join([self], dtype)
        self.in_proj.to(dtype)
        self.out_proj.to(dtype)

    def _pairs(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Parameters of the one direction and of the other, in the order of `Directions`."""
        return (
            (self.conv1d.weight, self.conv1d_b.weight),
            (self.conv1d.bias, self.conv1d_b.bias),  # type: ignore[return-value]
            (self.D, self.D_b),
            (self.x_proj.weight, self.x_proj_b.weight),
            (self.dt_proj.weight, self.dt_proj_b.weight),
            (self.dt_proj.bias, self.dt_proj_b.bias),
            (self.A_log, self.A_b_log),
        )


def join_directions(mixers: Sequence[Mixer]) -> list[Directions]:
    """Join the parameters of both directions of `mixers`, which are of one size.

    Their projections are in the dtype that products are computed in. Mixers are joined together,
    because each alone needs as many kernels as all of them, forward and backward, and a GPU takes a
    step of a small model no faster than kernels can start.
    """
    own = [mixer for mixer in mixers if mixer._frozen is None]
    joined = iter(_join(own, product_dtype(own[0].D)) if own else ())
    return [mixer._frozen or next(joined) for mixer in mixers]


def _join(mixers: Sequence[Mixer], dtype: torch.dtype) -> list[Directions]:
    pairs = [mixer._pairs() for mixer in mixers]
    together = Directions(
        *(
            torch.stack([v for pair in of_all for v in pair]).unflatten(0, (len(mixers), 2))
            for of_all in zip(*pairs, strict=True)
        )
    )
    together = together._replace(
        conv=together.conv.squeeze(3),
        x_proj=together.x_proj.to(dtype),
        dt_proj=together.dt_proj.to(dtype),
    )
    if together.skip.is_cuda:
        together = _aligned(together)
    parts = zip(*(v.unbind() for v in together), strict=True)
    return [Directions(*map(_cut, *own)) for own in zip(parts, pairs, strict=True)]


def _cut(joined: Tensor, pair: tuple[Tensor, Tensor]) -> Tensor:
    """Without gradients where the two do not ask for any, though others in the stack do."""
    return joined if any(v.requires_grad for v in pair) else joined.detach()


def _aligned(both: Directions) -> Directions:
    """Fill the rank of the step sizes up with zeros to a multiple of eight.

    Products in half precision whose rows are no multiples of 16 bytes are slow on tensor cores: at
    FastVim-T's rank of 12 they took a seventh of a training step.
    """
    rank = both.dt_proj.shape[-1]
    gap = -rank % 8
    if not gap:
        return both
    steps, maps = both.x_proj.split([rank, 2 * STATE], dim=-2)
    x_proj = torch.cat([F.pad(steps, (0, 0, 0, gap)), maps], dim=-2)
    return both._replace(x_proj=x_proj, dt_proj=F.pad(both.dt_proj, (0, gap)))
