"""The operations on float32 tensors in C. Arguments and results are those of the references."""

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastvim_kernels.conv_pool import remaining_axes
from fastvim_kernels.cpu.grid import Tokens, steps
from fastvim_kernels.cpu.library import PART, WIDTH, library
from fastvim_kernels.operation import REFERENCES
from fastvim_kernels.selective_scan import chunk_steps, empty_starts


def add_norm(
    hidden: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As `fastvim_kernels.add_norm._norm`."""
    width = hidden.shape[-1]
    hidden = hidden.contiguous()
    normed, total = torch.empty_like(hidden), torch.empty_like(hidden)
    stats = hidden.new_empty(2, *hidden.shape[:-1], 1)
    if residual is not None:
        # all images may share one's, such as positions
        shared = residual.dim() > 1 and residual.stride(0) == 0
        residual = _plain(residual[:1] if shared else residual)
    of_residual = 0 if residual is None else residual.numel() // width
    rows = hidden.numel() // width
    norm = _plain(weight), None if bias is None else _plain(bias), eps
    _call("add_norm", hidden, residual, *norm, normed, total, *stats, rows, of_residual, width)
    return normed, total, stats


def add_norm_backward(
    dnormed: Tensor,
    dtotal: Tensor | None,
    total: Tensor,
    stats: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    of_residual: bool,
    *,
    again: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `fastvim_kernels.add_norm._norm_backward`."""
    width = total.shape[-1]
    rows = total.numel() // width
    dhidden = torch.empty_like(total)
    dresidual, normed = (
        torch.empty_like(total) if wanted else total.new_empty(0) for wanted in (of_residual, again)
    )
    sums = total.new_empty(-(-rows // PART), 2, width)
    _call(
        "add_norm_backward",
        *(_plain(dnormed), None if dtotal is None else _plain(dtotal), total, *stats),
        *(_plain(weight), None if bias is None else _plain(bias), dhidden),
        *(v if v.numel() else None for v in (dresidual, normed)),
        *(sums, rows, width),
    )
    dbias = total.new_empty(0) if bias is None else sums[:, 1].sum(0)
    return dhidden.to(dtype), dresidual, sums[:, 0].sum(0), dbias, normed.to(dtype)


def conv_pool(
    x: Tensor, weight: Tensor, bias: Tensor, skip: Tensor, pool: Sequence[int], method: str
) -> tuple[Tensor, Tensor]:
    """As `fastvim_kernels.conv_pool._forward`."""
    x = _adjacent(x)
    batch, *grid, channel = x.shape
    skipped = torch.empty_like(x)
    count = math.prod(remaining_axes(grid, pool))
    pooled = x.new_empty(2, batch, count, channel)
    _call(
        "conv_pool",
        *(Tokens(x), math.prod(grid)),
        *(_plain(v) for v in (weight, bias, skip)),
        *(pooled, steps(grid, pool), count, method == "max"),
        Tokens(skipped),
        *(batch, channel, weight.shape[-1]),
    )
    return pooled, skipped


def conv_pool_backward(
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
    """As `fastvim_kernels.conv_pool._backward`, to which it leaves maxima."""
    if method == "max":
        reference = REFERENCES["conv_pool_backward"]
        return reference(dpooled, dskipped, x, weight, bias, skip, pool, method, out=out)
    x, dskipped = _adjacent(x), _adjacent(dskipped.to(x.dtype))
    batch, *grid, channel = x.shape
    taps = weight.shape[-1]
    dx = torch.empty_like(x) if out is None else out
    sums = x.new_empty(batch, 2, taps + 2, channel)
    _call(
        "conv_pool_backward",
        *(_plain(dpooled), steps(grid, pool), dpooled.shape[2]),
        Tokens(dskipped),
        *(Tokens(x), math.prod(grid)),
        *(_plain(v) for v in (weight, bias, skip)),
        *(Tokens(dx), sums),
        *(batch, channel, taps),
    )
    sums = sums.sum(0)
    return dx, sums[:, :taps].mT.contiguous(), sums[:, taps].clone(), sums[:, taps + 1].clone()


def selective_scan(
    u: Tensor, dt: Tensor, dt_bias: Tensor, A_log: Tensor, B: Tensor, C: Tensor, keep: bool
) -> tuple[Tensor, Tensor]:
    """As `fastvim_kernels.selective_scan._forward`."""
    u, dt = _plain(u), _plain(dt)
    B, C = (_adjacent(v.to(u.dtype)) for v in (B, C))
    y, starts = torch.empty_like(u), empty_starts(u, A_log, keep=keep)
    _call(
        "selective_scan",
        *(u, dt, _plain(dt_bias), _plain(A_log)),
        *(B, B.stride(0), B.stride(1), B.stride(2)),
        *(C, C.stride(0), C.stride(1), C.stride(2)),
        *(y, starts if keep else None, chunk_steps(u, A_log)),
        *u.shape[1:],
        A_log.shape[-1],
    )
    return y, starts


def selective_scan_backward(
    dy: Tensor,
    u: Tensor,
    dt: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    B: Tensor,
    C: Tensor,
    starts: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `fastvim_kernels.selective_scan._backward`."""
    both, batch, length, channel = u.shape
    state = A_log.shape[-1]
    # the directions may share their gradient
    dy = _plain(dy[:1]).expand(u.shape) if dy.stride(0) == 0 else _plain(dy)
    u, dt = _plain(u), _plain(dt)
    B, C = (_adjacent(v.to(u.dtype)) for v in (B, C))
    du, ddt = torch.empty_like(u), torch.empty_like(u)
    dbias, dA_log = u.new_empty(both, batch, channel), u.new_empty(both, batch, channel, state)
    dB, dC = u.new_empty(2, -(-channel // WIDTH), both, batch, length, state)
    _call(
        "selective_scan_backward",
        *(dy, dy.stride(0), u, dt, _plain(dt_bias), _plain(A_log)),
        *(B, B.stride(0), B.stride(1), B.stride(2)),
        *(C, C.stride(0), C.stride(1), C.stride(2)),
        *(starts, chunk_steps(u, A_log)),
        *(du, ddt, dbias, dA_log, dB, dC),
        *(batch, length, channel, state),
    )
    return du, ddt, dbias.sum(1), dA_log.sum(1), dB.sum(0), dC.sum(0)


def expand_norm_gate(
    y: Tensor,
    skipped: Tensor,
    z: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    pool: Sequence[int],
    eps: float,
) -> Tensor:
    """As `fastvim_kernels.expand_norm_gate._forward`."""
    y, skipped, z = _plain(y), _adjacent(skipped.to(y.dtype)), _adjacent(z.to(y.dtype))
    batch, *grid, channel = z.shape
    out = torch.empty_like(z)
    _call(
        "expand_norm_gate",
        *(y, steps(grid, pool), y.shape[2]),
        *(Tokens(skipped), Tokens(z)),
        *(None if v is None else _plain(v) for v in (weight, bias)),
        *(eps, Tokens(out)),
        *(batch, math.prod(grid), channel),
    )
    return out


def expand_norm_gate_backward(
    dout: Tensor,
    y: Tensor,
    skipped: Tensor,
    z: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    pool: Sequence[int],
    eps: float,
    *,
    out: Tensor | None = None,
    again: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `fastvim_kernels.expand_norm_gate._backward`."""
    y = _plain(y)
    dout, skipped, z = (_adjacent(v.to(y.dtype)) for v in (dout, skipped, z))
    batch, *grid, channel = z.shape
    tokens = math.prod(grid)
    dskipped, dz = torch.empty_like(skipped), torch.empty_like(z) if out is None else out
    gated = torch.empty_like(skipped) if again else skipped.new_empty(0)
    sums = z.new_empty(-(-batch * tokens // PART), 2, channel)
    _call(
        "expand_norm_gate_backward",
        *(Tokens(dout), y, steps(grid, pool), y.shape[2]),
        *(Tokens(skipped), Tokens(z)),
        *(None if v is None else _plain(v) for v in (weight, bias)),
        *(eps, Tokens(dskipped), gated if again else None),
        *(Tokens(dz), sums),
        *(batch, tokens, channel),
    )
    dy = dskipped.sum([axis + 1 for axis in pool]) if pool else dskipped.clone()
    dweight, dbias = (z.new_empty(0) if weight is None else sums[:, i].sum(0) for i in (0, 1))
    return dy.reshape(y.shape[1:]), dskipped, dz, dweight, dbias, gated


def _plain(v: Tensor) -> Tensor:
    return v.to(torch.float32).contiguous()


def _adjacent(v: Tensor) -> Tensor:
    """Return the same with channels that lie side by side."""
    return v if v.stride(-1) == 1 or v.shape[-1] == 1 else v.contiguous()


def _call(name: str, *arguments: Tensor | Tokens | float | None) -> None:
    """Call a function of the library, whose integers are all int64_t, on PyTorch's threads."""
    function = getattr(library(), name)
    function.restype = None
    function(*map(_convert, arguments), ctypes.c_int64(torch.get_num_threads()))


def _convert(argument: Tensor | Tokens | float | None) -> Any:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if argument is None:
        return ctypes.c_void_p(None)
    if isinstance(argument, Tokens):
        return argument
    return (ctypes.c_float if isinstance(argument, float) else ctypes.c_int64)(argument)
