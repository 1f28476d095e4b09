"""Inference on a CPU by PyTorch's compiler, which joins elementwise work to few passes.

As operations of PyTorch, one after another, each such pass waits for memory and for the other
cores. Here a mixer is three functions that are compiled for the first block of a model and called
by all: few, as each call costs time, and small, as each takes seconds to compile. The compiler
would compute u once more for a sum, so that means are products, and does not vectorise what tests
for the ends of the tokens, so that these are copied between zeros first.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvim_kernels.add_norm import _norm
from fastvim_kernels.mix import _halves, _restore, _split
from fastvim_kernels.pieces import wide
from fastvim_kernels.selective_scan import _rates, _step_major

CHUNK_STEPS = 16
"""Steps of the scan that are compiled as one, for some five seconds."""

add_norm = torch.compile(_norm)


def mix(
    xz: Tensor,
    conv: Tensor,
    conv_bias: Tensor,
    skip: Tensor,
    x_proj: Tensor,
    dt_proj: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    out_proj: Tensor,
    order: Sequence[int],
    pool: Sequence[int],
    pool_scale: float,
    eps: float,
) -> Tensor:
    """Return what `fastvim_kernels.mix` does with means."""
    x, _ = _halves(xz, order)
    batch, *grid, channel = x.shape
    count, reach = math.prod(grid), conv.shape[-1] - 1
    window = conv.new_empty(batch, count + 2 * reach, channel)
    window[:, :reach] = window[:, reach + count :] = 0
    window[:, reach : reach + count].view(batch, *grid, channel).copy_(x)
    skipped, A, *of_steps = _until_scan(
        window,
        conv.mT.contiguous(),
        *(conv_bias, skip, x_proj, dt_proj, dt_bias, A_log),
        *(grid, pool, pool_scale),
    )
    steps = len(of_steps[0])
    if gap := -steps % CHUNK_STEPS:
        # steps of no length leave the state as it is
        of_steps = [F.pad(v, (0,) * 7 + (gap,)) for v in of_steps]
    state = A.new_zeros(2, batch, *A.shape[2:])
    chunks = []
    for of_chunk in zip(*(v.split(CHUNK_STEPS) for v in of_steps), strict=True):
        y, state = _advance(state, A, *of_chunk)
        chunks.append(y)
    y = torch.cat(chunks)[:steps]
    return _from_scan(y, skipped, xz, norm_weight, norm_bias, out_proj, order, pool, eps)


@torch.compile
def _until_scan(
    window: Tensor,
    conv: Tensor,
    conv_bias: Tensor,
    skip: Tensor,
    x_proj: Tensor,
    dt_proj: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    grid: Sequence[int],
    pool: Sequence[int],
    pool_scale: float,
) -> tuple[Tensor, ...]:
    """Weighted sum of the convolved tokens, rates, and u, step lengths, B and C, steps first.

    window : (batch, token, channel), tokens between zeros at both ends. conv : (2, tap, channel).
    """
    reach, dtype = conv.shape[1] - 1, x_proj.dtype
    count = window.shape[1] - 2 * reach
    first, second = conv_bias
    for tap in range(reach + 1):
        first = first + window[:, tap : tap + count] * conv[0, tap]
        later = 2 * reach - tap
        second = second + window[:, later : later + count] * conv[1, tap]
    both = [F.silu(u).unflatten(1, grid) for u in (first, second)]
    skipped = both[0] * skip[0] + both[1] * skip[1]
    u = torch.stack([_mean(v, pool).flatten(1, -2) for v in both]).to(dtype) * pool_scale
    u, dt, B, C = _step_major(u, *_split(u.flatten(1, 2) @ x_proj.mT, dt_proj, u))
    A = _rates(A_log) * math.log2(math.e)
    return skipped, A, u, F.softplus(dt + dt_bias.unsqueeze(1)), B, C


def _mean(u: Tensor, pool: Sequence[int]) -> Tensor:
    """Mean of (batch, *grid, channel) over axes of the grid.

    One product an axis, from the last on.
    """
    for axis in sorted((axis + 1 for axis in pool), reverse=True):
        size, kept = u.shape[axis], (*u.shape[:axis], *u.shape[axis + 1 :])
        ones = u.new_full((1, size), 1 / size)
        u = (ones @ u.flatten(0, axis - 1).flatten(2)).view(kept)
    return u


@torch.compile
def _advance(
    h: Tensor, A: Tensor, u: Tensor, dt: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor]:
    """Outputs of a chunk of steps, and the state after it."""
    outputs = []
    for u_t, dt_t, B_t, C_t in zip(u, dt, B, C, strict=True):
        decay = torch.exp2(dt_t.unsqueeze(-2) * A)
        h = decay * h + B_t.unsqueeze(-1) * (dt_t * u_t).unsqueeze(-2)
        outputs.append((C_t.unsqueeze(-1) * h).sum(-2))
    return torch.stack(outputs), h


@torch.compile
def _from_scan(
    y: Tensor,
    skipped: Tensor,
    xz: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    out_proj: Tensor,
    order: Sequence[int],
    pool: Sequence[int],
    eps: float,
) -> Tensor:
    """Expand, add, normalise, gate and project; y is (step, 2, batch, channel)."""
    scanned = [1 if axis in pool else size for axis, size in enumerate(skipped.shape[1:-1])]
    half = (y[:, 0] + y[:, 1].flip(0)).transpose(0, 1) / 2
    mixed = _restore(half.reshape(len(skipped), *scanned, -1) + skipped / 2, order)
    if norm_weight is not None:
        mixed = F.layer_norm(mixed, norm_weight.shape, norm_weight, norm_bias, eps)
    gate = F.silu(xz[..., skipped.shape[-1] :].to(wide(xz.dtype)))
    return (mixed * gate).to(xz.dtype) @ out_proj.mT
