"""Depthwise convolution in both directions, SiLU, and pooling over some axes of the token grid."""

import math
from collections.abc import Iterator
from typing import Any, Sequence  # noqa: UP035 - all that PyTorch 2.6 accepts in an operator

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvim_kernels.operation import operation
from fastvim_kernels.pieces import pieces, wide


def conv_pool(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    skip: Tensor,
    pool: Sequence[int],
    method: str = "mean",
) -> tuple[Tensor, Tensor]:
    """Convolve tokens along their order, pool them, and weight them for the skip.

    The order of the tokens is that of the flattened grid, and the convolution runs across row
    ends. Direction 0 looks at earlier tokens, direction 1 at later ones:

        u_0[t] = SiLU(bias_0 + sum_k weight_0[k] * x[t - (K-1) + k])
        u_1[t] = SiLU(bias_1 + sum_k weight_1[k] * x[t + (K-1) - k])

    x : (batch, *grid, channel), of any strides: an order of the tokens other than that in memory
        is a permuted view, which is never copied as a whole.
    weight : (2, channel, K); bias, skip : (2, channel), one row a direction.
    pool : axes of `grid` to pool away (0 is the first). method : "mean" or "max".

    Returns `pooled`, (2, batch, step, channel): u over the remaining axes, flattened; and
    `skipped`, shape and strides of `x`: skip_0 * u_0 + skip_1 * u_1. Arithmetic is float32. Equal
    maxima share the gradient; on a GPU the first in the tokens' order gets it.
    """
    dtype = wide(x.dtype)
    return _forward(x, weight.to(dtype), bias.to(dtype), skip.to(dtype), pool, method)


# Both operations work on pieces that fit the cache; only the inputs are kept for backward.


@operation("conv_pool")
def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, skip: Tensor, pool: Sequence[int], method: str
) -> tuple[Tensor, Tensor]:
    batch, *grid, channel = x.shape
    remaining = remaining_axes(grid, pool)
    pooled = x.new_empty(2, batch, *remaining, channel)
    skipped = torch.empty_like(x)
    for images, rows in pieces(batch, grid, channel, x.device, split_rows=0 not in pool):
        shares = []
        for d, u in enumerate(_convolve(x[images], weight, bias, rows)):
            u = F.silu(u, inplace=True)
            on_grid = u.unflatten(1, (rows.stop - rows.start, *grid[1:]))
            where = (d, images, slice(None) if 0 in pool else rows)
            pooled[where] = _pool(on_grid, pool, method)
            shares.append(on_grid.mul_(skip[d]))  # in place, as fresh memory is slow to touch
        torch.add(*shares, out=skipped[images, rows])
    return pooled.view(2, batch, math.prod(remaining), channel), skipped


@_forward.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor, skip: Tensor, pool: Sequence[int], method: str
) -> tuple[Tensor, Tensor]:
    batch, *grid, channel = x.shape
    step = math.prod(remaining_axes(grid, pool))
    return x.new_empty(2, batch, step, channel), torch.empty_like(x)


@operation("conv_pool_backward")
def _backward(
    dpooled: Tensor,
    dskipped: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    skip: Tensor,
    pool: Sequence[int],
    method: str,
    *,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of `x`, in `out` if that is given, and of the parameters."""
    batch, *grid, channel = x.shape
    length, taps = math.prod(grid), weight.shape[-1]
    scanned = [1 if axis in pool else size for axis, size in enumerate(grid)]
    dpooled = dpooled.to(weight.dtype).reshape(2, batch, *scanned, channel)
    if method == "mean":
        dpooled = dpooled / math.prod(grid[axis] for axis in pool)
    dx = torch.empty_like(x) if out is None else out
    dweight, dbias, dskip = (torch.zeros_like(v) for v in (weight, bias, skip))
    for images, _ in pieces(batch, grid, channel, x.device, split_rows=False):
        piece, dout = (v[images].flatten(1, -2).to(weight.dtype) for v in (x, dskipped))
        dpiece = skip.new_zeros(())
        for d, u in enumerate(_convolve(piece.unflatten(1, grid), weight, bias, slice(0, grid[0]))):
            sigmoid = torch.sigmoid(u)
            u.mul_(sigmoid)
            dskip[d] += _total(dout * u)
            share = dpooled[d, images]
            if method == "max":
                share = _spread(u.unflatten(1, grid), share, pool)
            du = (dout * skip[d]).unflatten(1, grid).add_(share).flatten(1, -2)
            # derivative of SiLU: s + u * (1 - s)
            du *= sigmoid.addcmul_(u, 1 - sigmoid)
            dbias[d] += _total(du)
            for tap in range(taps):
                lag = taps - 1 - tap
                near, far = slice(lag, None), slice(0, max(0, length - lag))
                here, there = (near, far) if d == 0 else (far, near)
                dweight[d, :, tap] += _total(du[:, here] * piece[:, there])
            dpiece = dpiece + _filter(du, weight[d], reverse=d == 0)
        dx[images] = dpiece.unflatten(1, grid)
    return dx, dweight, dbias, dskip


@_backward.register_fake
def _(
    dpooled: Tensor,
    dskipped: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    skip: Tensor,
    pool: Sequence[int],
    method: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dweight, dbias, dskip = (weight.new_empty(v.shape) for v in (weight, bias, skip))
    return torch.empty_like(x), dweight, dbias, dskip


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.pool, ctx.method = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, dpooled: Tensor, dskipped: Tensor) -> tuple[Tensor | None, ...]:
    gradients = _backward(dpooled, dskipped, *ctx.saved_tensors, ctx.pool, ctx.method)
    return *gradients, None, None


_forward.register_autograd(_differentiate, setup_context=_save)


def _filter(signal: Tensor, weight: Tensor, *, reverse: bool, bias: Tensor | None = None) -> Tensor:
    """Causal depthwise filter of (batch, token, channel) tokens; anti-causal when `reverse`."""
    # PyTorch's convolution copies tokens with gaps between them, such as half of a projection, and
    # takes longer to start: 79 us against 42 at 196 tokens of 384 channels, on two cores
    *earlier, last = weight.mT.contiguous()
    out = signal * last if bias is None else torch.addcmul(bias, signal, last)
    for lag, factor in enumerate(reversed(earlier), start=1):
        late, early = slice(lag, None), slice(None, -lag)
        here, there = (early, late) if reverse else (late, early)
        out[:, here].addcmul_(signal[:, there], factor)
    return out


def _convolve(x: Tensor, weight: Tensor, bias: Tensor, rows: slice) -> Iterator[Tensor]:
    """Each direction at the tokens of some rows, (batch, token, channel), before SiLU.

    x : (batch, *grid, channel) of any strides; rows of the grid's first axis.
    """
    reach, row = weight.shape[-1] - 1, math.prod(x.shape[2:-1])
    beyond = -(-reach // row)
    first = max(0, rows.start - beyond)
    tokens = x[:, first : rows.stop + beyond].flatten(1, -2)
    before, count = (rows.start - first) * row, (rows.stop - rows.start) * row
    start = max(0, before - reach)
    window = tokens[:, start : before + count + reach].to(weight.dtype)
    inside = slice(before - start, before - start + count)
    for d in (0, 1):
        yield _filter(window, weight[d], reverse=d == 1, bias=bias[d])[:, inside]


def remaining_axes(grid: Sequence[int], pool: Sequence[int]) -> list[int]:
    """Sizes of the axes that are not pooled."""
    return [size for axis, size in enumerate(grid) if axis not in pool]


def _pool(u: Tensor, pool: Sequence[int], method: str) -> Tensor:
    """Pool (batch, *grid, channel) over axes of the grid."""
    axes = [axis + 1 for axis in pool]
    if not axes:
        return u
    return u.mean(axes) if method == "mean" else u.amax(axes)


def _spread(u: Tensor, gradient: Tensor, pool: Sequence[int]) -> Tensor:
    """Give the gradient of maxima to the tokens that attain them, in equal parts."""
    axes = [axis + 1 for axis in pool]
    attained = (u == u.amax(axes, keepdim=True)).to(u.dtype) if axes else torch.ones_like(u)
    count = attained.sum(axes, keepdim=True) if axes else attained
    return attained * (gradient / count)


def _total(v: Tensor) -> Tensor:
    """Sum (batch, token, channel) over batch and tokens; a matrix product is the fastest way."""
    return v.new_ones(v.shape[0] * v.shape[1]) @ v.reshape(-1, v.shape[-1])
