"""The operations on float32 tensors in C. Arguments and results are those of the references."""

import ctypes
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastvim_kernels.conv_pool import remaining_axes
from fastvim_kernels.cpu.grid import places, steps
from fastvim_kernels.cpu.library import library
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
        *(x, x.stride(0), places(x), math.prod(grid)),
        *(_plain(v) for v in (weight, bias, skip)),
        *(pooled, steps(grid, pool), count, method == "max"),
        *(skipped, skipped.stride(0), places(skipped)),
        *(batch, channel, weight.shape[-1]),
    )
    return pooled, skipped


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
        *(skipped, skipped.stride(0), places(skipped), z, z.stride(0), places(z)),
        *(None if v is None else _plain(v) for v in (weight, bias)),
        *(eps, out, out.stride(0), places(out)),
        *(batch, math.prod(grid), channel),
    )
    return out


def _plain(v: Tensor) -> Tensor:
    return v.to(torch.float32).contiguous()


def _adjacent(v: Tensor) -> Tensor:
    """Return the same with channels that lie side by side."""
    return v if v.stride(-1) == 1 or v.shape[-1] == 1 else v.contiguous()


def _call(name: str, *arguments: Tensor | float | None) -> None:
    """Call a function of the library, whose integers are all int64_t, on PyTorch's threads."""
    function = getattr(library(), name)
    function.restype = None
    function(*map(_convert, arguments), ctypes.c_int64(torch.get_num_threads()))


def _convert(argument: Tensor | float | None) -> ctypes.c_void_p | ctypes.c_float | ctypes.c_int64:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if argument is None:
        return ctypes.c_void_p(None)
    return (ctypes.c_float if isinstance(argument, float) else ctypes.c_int64)(argument)
