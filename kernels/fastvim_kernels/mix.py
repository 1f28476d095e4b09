"""The mixer from its first projection to the end of its second, as one operation.

It composes the others. As one, it takes a single trip through Python and autograd, keeps less for
the backward pass, and writes the gradients of x and z side by side, where they are wanted.
"""

from collections.abc import Iterator
from typing import Any, Sequence  # noqa: UP035 - all that PyTorch 2.6 accepts in an operator

import torch
from torch import Tensor

from fastvim_kernels.conv_pool import remaining_axes
from fastvim_kernels.operation import implementation, keeps_for_backward, operator
from fastvim_kernels.pieces import wide
from fastvim_kernels.selective_scan import empty_starts

Gradients = tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor
]


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
    method: str = "mean",
    pool_scale: float = 1.0,
    eps: float = 1e-5,
) -> Tensor:
    """Convolve and pool x, scan, expand, gate with z and project.

        pooled, skipped = conv_pool(x, conv, conv_bias, skip, pool, method)
        dt, B, C = pooled * pool_scale @ x_proj.T, split; dt = dt @ dt_proj.T
        y = selective_scan(pooled * pool_scale, dt, dt_bias, A_log, B, C)
        out = expand_norm_gate(y, skipped, z, norm_weight, norm_bias, pool) @ out_proj.T

    xz : (batch, *grid, 2 * channel), x and z side by side, in the order of memory.
    order : axes of the grid, slowest first, in the order of the convolution and the scan.
    pool : axes to pool away, as positions in `order`. method : "mean" or "max".
    x_proj : (2, rank + 2 * state, channel). dt_proj : (2, channel, rank).
    out_proj : (dim, channel). The others are those of the four operations.

    Returns (batch, *grid, dim) in the order of `xz` and its dtype, in which the products are, too.
    """
    dtype = wide(xz.dtype)
    norm = [None if v is None else v.to(dtype) for v in (norm_weight, norm_bias)]
    inputs = (
        xz,
        *(v.to(dtype) for v in (conv, conv_bias, skip)),
        x_proj.to(xz.dtype),
        dt_proj.to(xz.dtype),
        dt_bias.to(dtype),
        A_log.to(dtype),
        *norm,
        out_proj.to(xz.dtype),
    )
    keep = keeps_for_backward(*inputs)
    return _forward(*inputs, order, pool, method, pool_scale, eps, keep)[0]


@operator("mix")
def _forward(
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
    method: str,
    pool_scale: float,
    eps: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Also return, empty unless `keep`: skipped, pooled, maps, y and the scan's states.

    `maps` are dt before its second projection, B and C: (2, batch * step, rank + 2 * state).
    """
    x, z = _halves(xz, order)
    pooled, skipped = implementation("conv_pool", x)(x, conv, conv_bias, skip, pool, method)
    if pool_scale != 1:
        pooled = pooled * pool_scale
    maps = pooled.flatten(1, 2) @ x_proj.mT
    dt, B, C = _split(maps, dt_proj, pooled)
    scan = implementation("selective_scan", x)
    y, starts = scan(pooled, dt, dt_bias, A_log, B, C, keep)
    gated = implementation("expand_norm_gate", x)(y, skipped, z, norm_weight, norm_bias, pool, eps)
    out = _restore(gated, order) @ out_proj.mT
    if not keep:
        skipped, pooled, maps, y, starts = (
            v.new_empty(0) for v in (skipped, pooled, maps, y, starts)
        )
    return out, skipped, pooled, maps, y, starts


@_forward.register_fake
def _(
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
    method: str,
    pool_scale: float,
    eps: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, _ = _halves(xz, order)
    batch, *grid, channel = x.shape
    step = 1
    for size in remaining_axes(grid, pool):
        step = step * size
    out = xz.new_empty(*xz.shape[:-1], out_proj.shape[0])
    if not keep:
        a, b, c, d = (xz.new_empty(0) for _ in range(4))
        return out, a, b, c, d, xz.new_empty(0, dtype=wide(xz.dtype))
    pooled = xz.new_empty(2, batch, step, channel)
    maps = xz.new_empty(2, batch * step, x_proj.shape[1])
    starts = empty_starts(pooled, A_log, keep=True)
    return out, torch.empty_like(x), pooled, maps, torch.empty_like(pooled), starts


@operator("mix_backward")
def _backward(
    dout: Tensor,
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
    skipped: Tensor,
    pooled: Tensor,
    maps: Tensor,
    y: Tensor,
    starts: Tensor,
    order: Sequence[int],
    pool: Sequence[int],
    method: str,
    pool_scale: float,
    eps: float,
) -> Gradients:
    """Gradients of the first eleven inputs of `_forward`; the gated tokens are computed again."""
    x, z = _halves(xz, order)
    dxz = torch.empty_like(xz)
    dx, dz = _halves(dxz, order)
    dgated = _arrange(dout @ out_proj, order)
    dy, dskipped, _, dnorm_weight, dnorm_bias, gated = implementation(
        "expand_norm_gate_backward", x
    )(dgated, y, skipped, z, norm_weight, norm_bias, pool, eps, out=dz, again=True)
    dout_proj = dout.flatten(0, -2).mT @ _restore(gated, order).flatten(0, -2)
    dt, B, C = _split(maps, dt_proj, pooled)
    dpooled, ddt, ddt_bias, dA_log, dB, dC = implementation("selective_scan_backward", x)(
        dy.expand(y.shape), pooled, dt, dt_bias, A_log, B, C, starts
    )
    ddt, dB, dC = (v.flatten(1, 2) for v in (ddt, dB, dC))
    ddt_proj = ddt.mT @ maps[..., : dt_proj.shape[-1]]
    dmaps = torch.cat([ddt @ dt_proj, dB, dC], dim=-1)
    dx_proj = dmaps.mT @ pooled.flatten(1, 2)
    dpooled = torch.baddbmm(dpooled.flatten(1, 2), dmaps, x_proj).view(pooled.shape)
    if pool_scale != 1:
        dpooled = dpooled * pool_scale
    _, dconv, dconv_bias, dskip = implementation("conv_pool_backward", x)(
        dpooled, dskipped, x, conv, conv_bias, skip, pool, method, out=dx
    )
    small = (dconv, dconv_bias, dskip, dx_proj, ddt_proj, ddt_bias, dA_log)
    return dxz, *small, dnorm_weight, dnorm_bias, dout_proj


@_backward.register_fake
def _(
    dout: Tensor,
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
    skipped: Tensor,
    pooled: Tensor,
    maps: Tensor,
    y: Tensor,
    starts: Tensor,
    order: Sequence[int],
    pool: Sequence[int],
    method: str,
    pool_scale: float,
    eps: float,
) -> Gradients:
    of_weight, of_bias = (
        conv.new_empty(0 if v is None else v.shape) for v in (norm_weight, norm_bias)
    )
    of_conv, of_conv_bias, of_skip, of_x, of_dt, of_dt_bias, of_rates = (
        v.new_empty(v.shape) for v in (conv, conv_bias, skip, x_proj, dt_proj, dt_bias, A_log)
    )
    projections = of_x, of_dt, of_dt_bias, of_rates
    of_out = out_proj.new_empty(out_proj.shape)
    dxz = torch.empty_like(xz)
    return dxz, of_conv, of_conv_bias, of_skip, *projections, of_weight, of_bias, of_out


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    tensors, ctx.options = inputs[:11], inputs[11:-1]
    _, *kept = output
    ctx.save_for_backward(*tensors, *kept)
    ctx.mark_non_differentiable(*kept)
    ctx.set_materialize_grads(False)  # no zeros for what is kept


def _differentiate(ctx: Any, dout: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if dout is None:
        return (None,) * 17
    tensors = ctx.saved_tensors  # once only, or checkpointing complains
    gradients = _backward(dout, *tensors, *ctx.options)
    present = (None if v is None else g for v, g in zip(tensors, gradients, strict=False))
    return *present, *(None,) * 6


_forward.register_autograd(_differentiate, setup_context=_save)


def _halves(xz: Tensor, order: Sequence[int]) -> Iterator[Tensor]:
    """Views of x and z, (batch, *grid in `order`, channel)."""
    return (_arrange(half, order) for half in xz.chunk(2, dim=-1))


def _arrange(tokens: Tensor, order: Sequence[int]) -> Tensor:
    return tokens.permute(0, *(axis + 1 for axis in order), -1)


def _restore(tokens: Tensor, order: Sequence[int]) -> Tensor:
    return tokens.permute(0, *(order.index(axis) + 1 for axis in range(len(order))), -1)


def _split(maps: Tensor, dt_proj: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the scan's dt, B and C, (2, batch, step, ...) each."""
    rank = dt_proj.shape[-1]
    state = (maps.shape[-1] - rank) // 2
    dt, B, C = maps.split([rank, state, state], dim=-1)
    dt, B, C = (v.unflatten(1, pooled.shape[1:3]) for v in (dt @ dt_proj.mT, B, C))
    return dt, B, C
