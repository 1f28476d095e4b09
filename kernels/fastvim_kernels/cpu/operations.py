"""The operations on float32 tensors in C. Arguments and results are those of the references.

Which serve where tensors of other types are among the arguments, or channels lie scattered.
"""

import ctypes
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastvim_kernels.conv_pool import remaining_axes
from fastvim_kernels.cpu.grid import ScatteredChannelsError, Tokens, steps
from fastvim_kernels.cpu.library import PART, WIDTH, library
from fastvim_kernels.operation import REFERENCES
from fastvim_kernels.selective_scan import CHUNK_STEPS, empty_starts

Argument = Tensor | Tokens | float | None


def _or_reference(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def chosen(*arguments: Any, **options: Any) -> Any:
        given = [v for v in (*arguments, *options.values()) if isinstance(v, Tensor)]
        if all(v.dtype == torch.float32 for v in given):
            try:
                return function(*arguments, **options)
            except ScatteredChannelsError:
                pass
        return REFERENCES[function.__name__](*arguments, **options)

    return chosen


@_or_reference
def add_norm(
    hidden: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As `fastvim_kernels.add_norm._norm`."""
    width = hidden.shape[-1]
    hidden = hidden.contiguous()
    normed, total = torch.empty_like(hidden), torch.empty_like(hidden)
    stats = hidden.new_empty(2, *hidden.shape[:-1], 1)
    of_residual = 0
    if residual is not None:
        residual = residual.expand(hidden.shape)
        # all images may share one's, such as positions
        shared = residual.dim() > 1 and residual.stride(0) == 0
        residual = (residual[:1] if shared else residual).contiguous()
        of_residual = residual.numel() // width
    rows = hidden.numel() // width
    norm = _shaped("weight", weight, width), _shaped("bias", bias, width), eps
    _call("add_norm", hidden, residual, *norm, normed, total, *stats, rows, of_residual, width)
    return normed, total, stats


@_or_reference
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
        *(_shaped(name, v, *total.shape) for name, v in (("dnormed", dnormed), ("dtotal", dtotal))),
        *(total.contiguous(), *stats),
        *(_shaped("weight", weight, width), _shaped("bias", bias, width), dhidden),
        *(v if v.numel() else None for v in (dresidual, normed)),
        *(sums, rows, width),
    )
    dbias = total.new_empty(0) if bias is None else sums[:, 1].sum(0)
    return dhidden.to(dtype), dresidual, sums[:, 0].sum(0), dbias, normed.to(dtype)


@_or_reference
def conv_pool(
    x: Tensor, weight: Tensor, bias: Tensor, skip: Tensor, pool: Sequence[int], method: str
) -> tuple[Tensor, Tensor]:
    """As `fastvim_kernels.conv_pool._forward`."""
    batch, *grid, channel = x.shape
    skipped = torch.empty_like(x)
    count = math.prod(remaining_axes(grid, pool))
    pooled = x.new_empty(2, batch, count, channel)
    _call(
        "conv_pool",
        *(Tokens(x), math.prod(grid)),
        *_filters(weight, bias, skip, channel),
        *(pooled, steps(grid, pool), count, method != "mean"),
        Tokens(skipped),
        *(batch, channel, weight.shape[-1]),
    )
    return pooled, skipped


@_or_reference
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
    if method != "mean":
        reference = REFERENCES["conv_pool_backward"]
        return reference(dpooled, dskipped, x, weight, bias, skip, pool, method, out=out)
    batch, *grid, channel = x.shape
    taps, count = weight.shape[-1], math.prod(remaining_axes(grid, pool))
    dx = torch.empty_like(x) if out is None else out
    sums = x.new_empty(batch, 2, taps + 2, channel)
    _call(
        "conv_pool_backward",
        *(_shaped("dpooled", dpooled, 2, batch, count, channel), steps(grid, pool), count),
        Tokens(_adjacent("dskipped", dskipped, *x.shape)),
        *(Tokens(x), math.prod(grid)),
        *_filters(weight, bias, skip, channel),
        *(Tokens(dx), sums),
        *(batch, channel, taps),
    )
    sums = sums.sum(0)
    return dx, sums[:, :taps].mT.contiguous(), sums[:, taps].clone(), sums[:, taps + 1].clone()


@_or_reference
def selective_scan(
    u: Tensor, dt: Tensor, dt_bias: Tensor, A_log: Tensor, B: Tensor, C: Tensor, keep: bool
) -> tuple[Tensor, Tensor]:
    """As `fastvim_kernels.selective_scan._forward`."""
    y, starts = u.new_empty(u.shape), empty_starts(u, A_log, keep=keep)
    _call(
        "selective_scan",
        *_of_steps(u, dt, dt_bias, A_log, B, C),
        *(y, starts if keep else None, CHUNK_STEPS),
        *u.shape[1:],
        A_log.shape[-1],
    )
    return y, starts


@_or_reference
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
    _of_shape("dy", dy, *u.shape)
    # the directions may share their gradient
    dy = dy[:1].contiguous().expand(u.shape) if dy.stride(0) == 0 else dy.contiguous()
    du, ddt = u.new_empty(u.shape), u.new_empty(u.shape)
    dbias, dA_log = u.new_empty(both, batch, channel), u.new_empty(both, batch, channel, state)
    dB, dC = u.new_empty(2, -(-channel // WIDTH), both, batch, length, state)
    _call(
        "selective_scan_backward",
        *(dy, dy.stride(0)),
        *_of_steps(u, dt, dt_bias, A_log, B, C),
        _shaped("starts", starts, *empty_starts(u, A_log, keep=True).shape),
        CHUNK_STEPS,
        *(du, ddt, dbias, dA_log, dB, dC),
        *(batch, length, channel, state),
    )
    return du, ddt, dbias.sum(1), dA_log.sum(1), dB.sum(0), dC.sum(0)


@_or_reference
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
    batch, *grid, channel = z.shape
    out = torch.empty_like(z)
    _call(
        "expand_norm_gate",
        *_mixed(y, skipped, z, weight, bias, pool),
        *(eps, Tokens(out)),
        *(batch, math.prod(grid), channel),
    )
    return out


@_or_reference
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
    batch, *grid, channel = z.shape
    tokens = math.prod(grid)
    dskipped, dz = torch.empty_like(skipped), torch.empty_like(z) if out is None else out
    gated = torch.empty_like(skipped) if again else skipped.new_empty(0)
    sums = z.new_empty(-(-batch * tokens // PART), 2, channel)
    _call(
        "expand_norm_gate_backward",
        Tokens(_adjacent("dout", dout, *z.shape)),
        *_mixed(y, skipped, z, weight, bias, pool),
        *(eps, Tokens(dskipped), gated if again else None),
        *(Tokens(dz), sums),
        *(batch, tokens, channel),
    )
    dy = z.new_empty(y.shape[1:])
    on_grid = dy.view(batch, *remaining_axes(grid, pool), channel)
    if pool:
        torch.sum(dskipped, [axis + 1 for axis in pool], out=on_grid)
    else:
        on_grid.copy_(dskipped)
    dweight, dbias = (z.new_empty(0) if weight is None else sums[:, i].sum(0) for i in (0, 1))
    return dy, dskipped, dz, dweight, dbias, gated


def _filters(weight: Tensor, bias: Tensor, skip: Tensor, channel: int) -> list[Argument]:
    return [
        _shaped("weight", weight, 2, channel, weight.shape[-1]),
        *(_shaped("bias", bias, 2, channel), _shaped("skip", skip, 2, channel)),
    ]


def _of_steps(
    u: Tensor, dt: Tensor, dt_bias: Tensor, A_log: Tensor, B: Tensor, C: Tensor
) -> list[Argument]:
    both, batch, length, channel = u.shape
    state = A_log.shape[-1]
    arguments: list[Argument] = [
        _shaped("u", u, 2, batch, length, channel),
        _shaped("dt", dt, *u.shape),
        _shaped("dt_bias", dt_bias, both, channel),
        _shaped("A_log", A_log, both, channel, state),
    ]
    for name, v in (("B", B), ("C", C)):
        v = _adjacent(name, v, both, batch, length, state)
        arguments += [v, *v.stride()[:3]]
    return arguments


def _mixed(
    y: Tensor,
    skipped: Tensor,
    z: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    pool: Sequence[int],
) -> list[Argument]:
    batch, *grid, channel = z.shape
    count = math.prod(remaining_axes(grid, pool))
    if (weight is None) != (bias is None):
        raise ValueError("weight and bias: expected both or neither, got one of them")
    return [
        *(_shaped("y", y, 2, batch, count, channel), steps(grid, pool), count),
        *(Tokens(_of_shape("skipped", skipped, *z.shape)), Tokens(z)),
        *(_shaped("weight", weight, channel), _shaped("bias", bias, channel)),
    ]


def _of_shape(name: str, v: Tensor, *shape: int) -> Tensor:
    """Return what C would read beyond the end of, were it of another shape."""
    if v.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(v.shape)}")
    return v


def _adjacent(name: str, v: Tensor, *shape: int) -> Tensor:
    """Return a tensor of this shape whose last axis lies side by side in memory."""
    v = _of_shape(name, v, *shape)
    return v if v.stride(-1) == 1 else v.contiguous()


def _shaped(name: str, v: Tensor | None, *shape: int) -> Tensor | None:
    """Return a tensor of this shape as it lies in memory for C, or none."""
    return None if v is None else _of_shape(name, v, *shape).contiguous()


def _call(name: str, *arguments: Argument) -> None:
    """Call a function of the library, whose integers are all int64_t, on PyTorch's threads."""
    function = getattr(library(), name)
    function.restype = None
    function(*map(_convert, arguments), ctypes.c_int64(torch.get_num_threads()))


def _convert(argument: Argument) -> Any:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if argument is None:
        return ctypes.c_void_p(None)
    if isinstance(argument, Tokens):
        return argument
    return (ctypes.c_float if isinstance(argument, float) else ctypes.c_int64)(argument)
