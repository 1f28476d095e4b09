"""Convolution, SiLU and pooling of both directions on a GPU: which kernel walks which tokens."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from fastvim_kernels.gpu import conv_pool_forward as kernels
from fastvim_kernels.gpu.conv_pool_backward import slide_backward
from fastvim_kernels.gpu.conv_pool_window import BF16, FP16
from fastvim_kernels.gpu.grid import walk
from fastvim_kernels.gpu.math import fast_math, processors, register_cap
from fastvim_kernels.gpu.sums import sum_parts

EACH, MEAN, MAX, PLACE = (
    mode.value for mode in (kernels.EACH, kernels.MEAN, kernels.MAX, kernels.PLACE)
)

PACKED = {torch.bfloat16: BF16.value, torch.float16: FP16.value}


class Tuning(NamedTuple):
    """How a kernel is launched, in programs of one warp.

    block : channels of a program; a thread loads a 32nd of them at once.
    registers : cap on those of a thread, as `register_cap`; None is no cap.
    unrolls : tokens that are loaded ahead, best first.
    programs : that run at a time on a processor, as its registers allow; of SEGMENT's, which are
        not cut into runs, as many as there should be.
    """

    block: int
    registers: int | None
    unrolls: tuple[int, ...]
    programs: int


FORWARD = Tuning(128, 168, (8, 7, 6, 5, 4, 3, 10, 11, 13), 12)
BACKWARD = Tuning(64, 168, (4, 5, 3, 6, 7, 8, 10, 11, 13), 12)
# of groups of so many tokens, which are pooled apart from one another, one a chunk
GROUPED = Tuning(64, 128, (8, 7, 6, 5, 4, 3), 16)
# its unroll is the largest number of tokens that a program pools apart from one another
SEGMENT = Tuning(128, None, (8,), 24)
# What a run costs beside its tokens, in tokens: the three on either side of it, and its start.
RUN_OVERHEAD = 20
SHORTEST_PART = 4  # pieces of fewer groups are not worth a program


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, skip: Tensor, pool: Sequence[int], method: str
) -> tuple[Tensor, Tensor]:
    """Like `conv_pool`'s reference, without ever storing what is pooled."""
    return _forward(x, weight, bias, skip, pool, MAX if method == "max" else MEAN)


def backward(
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
    """Recompute everything from `x` in one pass over it.

    Of equal maxima the first gets the gradient; the reference shares it among them.
    """
    batch, *grid, channel = x.shape
    _, pooled, inner = walk(grid, pool)
    ties = method == "max" and pooled > 1
    dpooled, weight, bias, skip = (v.contiguous() for v in (dpooled, weight, bias, skip))
    places = _forward(x, weight, bias, skip, pool, PLACE)[0] if ties else dpooled
    dx = torch.empty_like(x) if out is None else out
    steps = dpooled[0].view(batch, *(1 if a in pool else size for a, size in enumerate(grid)), -1)
    words, dwords, packed = _pack(x, dskipped)
    axes = _merge(grid, words, dwords, dx, steps.expand(x.shape))
    length, strides = math.prod(grid), axes.strides
    unroll = _unroll(axes.width, BACKWARD)
    aligned = unroll > 1
    run = _run(x, length, unroll, BACKWARD)
    runs = -(-length // run)
    sums = x.new_empty(batch * runs, 12, channel, dtype=torch.float32)
    slide_backward[(batch * runs * _blocks(channel, BACKWARD),)](
        dpooled,
        places,
        dwords,
        words,
        weight,
        bias,
        skip,
        dx,
        sums,
        channel,
        length,
        axes.width,
        axes.inner,
        pooled,
        inner,
        run,
        runs,
        1.0 if method == "max" else 1.0 / pooled,
        dpooled.stride(0),
        *strides,
        TIES=ties,
        EACH=not aligned or strides[-1][3] != 0,
        UNROLL=unroll,
        ALIGNED=aligned,
        PACKED=packed,
        **_options(x, BACKWARD),
    )
    dtaps = sums.new_empty(2, 4, channel)
    dbias, dskip = (sums.new_empty(2, channel) for _ in range(2))
    sum_parts(sums, dtaps, dbias, dskip)
    return dx, dtaps.mT.contiguous(), dbias, dskip


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, skip: Tensor, pool: Sequence[int], mode: int
) -> tuple[Tensor, Tensor]:
    """Return pooled tokens, or the places of maxima in int32, and `skipped`."""
    batch, *grid, channel = x.shape
    outer, pooled, inner = walk(grid, pool)
    skipped = torch.empty_like(x)
    weight, bias, skip = (v.contiguous() for v in (weight, bias, skip))
    chunked = inner in GROUPED.unrolls and _merge(grid, x, skipped).width % inner == 0
    launch = _slide if inner == 1 or (chunked and pooled > 1) else _segment
    result = launch(x, weight, bias, skip, pool, mode, skipped)
    if result.dim() == 4:
        return result, skipped
    # (2, batch, outer, part, inner, channel): the kernels leave parts as they are
    result = result.sum(3).mul_(1 / pooled) if mode == MEAN else result.amax(3)
    return result.to(x.dtype).view(2, batch, outer * inner, channel), skipped


def _slide(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    skip: Tensor,
    pool: Sequence[int],
    mode: int,
    skipped: Tensor,
) -> Tensor:
    """Pool tokens that follow one another, or small groups that do, or none at all."""
    batch, *grid, channel = x.shape
    rows, pooled_tokens, group = walk(grid, pool)
    row = pooled_tokens * group
    length = rows * row
    if row == 1:
        mode, row = EACH, length
    tuning = FORWARD if group == 1 else GROUPED
    words, packed = _pack(x)
    axes = _merge(grid, words, skipped)
    unroll = _unroll(math.gcd(row, axes.width), FORWARD) if group == 1 else group
    run = _run(x, length, unroll, tuning)
    split = mode in (MEAN, MAX) and row >= 2 * run
    if split:
        span = row
        run = _round_up(-(-row // round(row / run)), unroll)
    else:
        span = length
        if mode != EACH:
            run = _run(x, length, row, tuning)
    per_span = -(-span // run)
    runs = length // span * per_span
    if mode == EACH:
        pooled = x.new_empty(2, batch, length, channel)
    elif split:
        pooled = x.new_empty(2, batch, rows, per_span, group, channel, dtype=torch.float32)
    else:
        pooled = x.new_empty(2, batch, rows * group, channel, dtype=_dtype(x, mode))
    kernels.slide_forward[(batch * runs * _blocks(channel, tuning),)](
        words,
        weight,
        bias,
        skip,
        pooled,
        skipped,
        channel,
        batch,
        length,
        row,
        axes.width,
        axes.inner,
        run,
        span,
        per_span,
        runs,
        math.prod(pooled.shape[2:-1]),
        1.0 if split or mode != MEAN else 1.0 / pooled_tokens,
        *axes.strides,
        MODE=mode,
        SPLIT=split,
        GROUP=group,
        UNROLL=unroll,
        ALIGNED=unroll > 1,
        PACKED=packed,
        **_options(x, tuning),
    )
    return pooled


def _segment(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    skip: Tensor,
    pool: Sequence[int],
    mode: int,
    skipped: Tensor,
) -> Tensor:
    """Pool tokens that lie a line or more apart."""
    batch, *grid, channel = x.shape
    outer, groups, group = walk(grid, pool)
    words, packed = _pack(x)
    axes = _merge(grid, words, skipped)
    segments = -(-group // SEGMENT.unrolls[0])
    programs = batch * outer * segments * _blocks(channel, SEGMENT)
    most = 1 if mode == PLACE else -(-groups // SHORTEST_PART)
    parts = min(most, -(-SEGMENT.programs * processors(x.device) // programs))
    part = -(-groups // parts)
    parts = -(-groups // part)
    shape = (2, batch, outer, parts, group, channel)
    if parts == 1:
        pooled = x.new_empty(2, batch, outer * group, channel, dtype=_dtype(x, mode))
    else:
        pooled = x.new_empty(shape, dtype=torch.float32)
    kernels.segment_forward[(programs * parts,)](
        words,
        weight,
        bias,
        skip,
        pooled,
        skipped,
        channel,
        batch,
        math.prod(grid),
        groups,
        group,
        axes.width,
        axes.inner,
        part,
        parts,
        1.0 if parts > 1 or mode != MEAN else 1.0 / groups,
        *axes.strides,
        MODE=mode,
        UNROLL=-(-group // segments),
        NEAR=group >= 3 and axes.width % group == 0,
        PACKED=packed,
        **_options(x, SEGMENT),
    )
    return pooled


def _dtype(x: Tensor, mode: int) -> torch.dtype:
    return torch.int32 if mode == PLACE else x.dtype


def _block(channel: int, tuning: Tuning) -> int:
    """Channels of a program."""
    return min(tuning.block, triton.next_power_of_2(channel))


def _blocks(channel: int, tuning: Tuning) -> int:
    return -(-channel // _block(channel, tuning))


def _options(x: Tensor, tuning: Tuning) -> dict[str, Any]:
    return {
        "BLOCK": _block(x.shape[-1], tuning),
        "FAST": fast_math(x),
        "num_warps": 1,
        "num_stages": 1,
        **({} if tuning.registers is None else register_cap(x, tuning.registers)),
    }


def _unroll(tokens: int, tuning: Tuning) -> int:
    """Return the length of the chunks that `tokens` are walked in; 1 if none divides them."""
    return next((size for size in tuning.unrolls if tokens % size == 0), 1)


def _run(x: Tensor, length: int, unit: int, tuning: Tuning) -> int:
    """Return the number of tokens in a run, a multiple of `unit` or all."""
    lines = x.shape[0] * _blocks(x.shape[-1], tuning)
    return _quickest_run(lines, length, unit, tuning.programs * processors(x.device))


@functools.cache
def _quickest_run(lines: int, length: int, unit: int, at_once: int) -> int:
    """Cut `lines` of tokens into runs so that all are walked soonest, `at_once` at a time.

    At FastVim's widths at 224 px this orders the runs as an H200 does; the last of several rounds
    that is almost empty cost a third of the time.
    """
    units = -(-length // unit)
    runs = sorted({unit * -(-units // count) for count in range(1, units + 1)}, reverse=True)

    def cost(run: int) -> int:
        rounds = -(-lines * -(-length // run) // at_once)
        return rounds * (run + RUN_OVERHEAD)

    return min(length, min(runs, key=cost))


def _round_up(run: int, unroll: int) -> int:
    return -(-run // unroll) * unroll


class _Axes(NamedTuple):
    """A token grid as three axes: sizes of the second and third, and each tensor's strides.

    A tensor's strides are those of the batch, the three axes, and the channel.
    """

    inner: int
    width: int
    strides: list[tuple[int, ...]]


def _pack(*tensors: Tensor) -> tuple[Any, ...]:
    """See half-precision tensors as words of two channels, if all of them allow it.

    Also return the kernels' argument PACKED.
    """
    packed = PACKED.get(tensors[0].dtype, 0)
    for tensor in tensors:
        *steps, last = tensor.stride()
        even = not any(v % 2 for v in (tensor.shape[-1], tensor.storage_offset(), *steps))
        if tensor.dtype != tensors[0].dtype or last != 1 or not even:
            packed = 0
    return *(v.view(torch.int32) if packed else v for v in tensors), packed


def _merge(grid: Sequence[int], *tensors: Tensor) -> _Axes:
    """Drop axes of one token, and merge axes that follow one another in every tensor."""
    sizes, steps = [1, 1, 1], [(0,) * len(tensors)] * 3
    for axis, size in enumerate(grid):
        if size == 1:
            continue
        step = tuple(tensor.stride(axis + 1) for tensor in tensors)
        if all(s * size == before for s, before in zip(step, steps[-1], strict=True)):
            sizes[-1], steps[-1] = sizes[-1] * size, step
        else:
            sizes.append(size)
            steps.append(step)
    strides = [
        (tensor.stride(0), *(step[index] for step in steps[-3:]), tensor.stride(-1))
        for index, tensor in enumerate(tensors)
    ]
    return _Axes(sizes[-2], sizes[-1], strides)
