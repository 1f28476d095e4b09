"""The selective scan on the card: how sequences are divided among the kernels' programs."""

import functools
import math

import torch
import triton
from torch import Tensor

from fastvim_kernels.gpu import selective_scan_kernels as kernels
from fastvim_kernels.gpu.sums import sum_parts
from fastvim_kernels.selective_scan import CHUNK_STEPS, empty_starts

STATES = 16
# Steps whose loads are issued together: the first of them that divides all chunks, or UNROLL.
FORWARD_UNROLLS, UNROLL = (7, 8, 6, 5, 4), 8
# Backward sixteen channels are side by side, so that sums over states take one shuffle a value and
# those over channels four; several such groups, one after the other, share the latter. The fastest
# of eight settings on an H100, at 14 steps and at 112: 139 and 361 us at FastVim-S's width, where
# 4, 2, 8 took 175 at 14.
BACKWARD_UNROLL, BACKWARD_GROUPS, BACKWARD_LANES = 2, 2, 16
# Programs of the backward pass for each multiprocessor: registers allow eight, and more would wait
# for a second round. On an H200, in us at 14 steps of 128 images, 8, 12 and 16 of them: 64, 90, 90
# at FastVim-T's width, 125, 163, 132 at FastVim-S's and 240, 313, 246 at FastVim-B's; with fewer
# registers, so that twelve fit, 75, 130 and 242.
BACKWARD_PROGRAMS = 8
# Warps for each multiprocessor: with fewer than FEW a sequence is divided so that there are MANY.
FEW, MANY = 8, 16
SEGMENT_STEPS = 256  # and it is divided into no fewer steps than these


def forward(
    u: Tensor, dt: Tensor, dt_bias: Tensor, A_log: Tensor, B: Tensor, C: Tensor, keep: bool
) -> tuple[Tensor, Tensor]:
    """Return y, and the state before each chunk but the first if `keep`."""
    if A_log.shape[-1] != STATES:
        raise ValueError(
            f"selective_scan's Triton kernels have {STATES} states, but A_log has "
            f"{A_log.shape[-1]}; set FASTVIM_BACKEND=torch"
        )
    _, batch, steps, channels = u.shape
    u, dt, dt_bias, A_log = (v.contiguous() for v in (u, dt, dt_bias, A_log))
    B, C = (_unit_stride(v) for v in (B, C))
    chunk = CHUNK_STEPS
    y = torch.empty_like(u)
    starts = empty_starts(u, A_log, keep=keep)
    lanes, blocks, segment = _forward_plan(batch, steps, channels, chunk, _processors(u.device))
    unroll, even = _forward_unroll(steps, chunk)
    width, segments = blocks * lanes, triton.cdiv(steps, segment)
    begins = _begins(u, dt, dt_bias, A_log, B, segment, lanes) if segments > 1 else starts
    kernels.forward[(2 * batch * segments * triton.cdiv(channels, width),)](
        u, dt, dt_bias, A_log, B, C, y, starts, begins,
        batch, steps, channels, segment, *B.stride()[:3], *C.stride()[:3],
        **_tile(lanes), BLOCKS=blocks, WHOLE=channels % width == 0, UNROLL=unroll, EVEN=even,
        CHUNK=chunk, KEEP=keep, DIVIDED=segments > 1, ALIGN=_alignment(B, C), num_warps=1,
    )  # fmt: skip
    return y, starts


def backward(
    dy: Tensor,
    u: Tensor,
    dt: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    B: Tensor,
    C: Tensor,
    starts: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the first six inputs of `forward`."""
    if starts.shape != empty_starts(u, A_log, keep=True).shape:
        raise ValueError(
            f"selective_scan: the backward pass needs the states that the forward pass keeps, but "
            f"got {tuple(starts.shape)} for {u.shape[2]} steps"
        )
    _, batch, steps, channels = u.shape
    u, dt, dt_bias, A_log = (v.contiguous() for v in (u, dt, dt_bias, A_log))
    if not dy[0].is_contiguous():  # the directions may share one gradient
        dy = dy.contiguous()
    B, C = (_unit_stride(v) for v in (B, C))
    # the kernel counts what lies within a sequence in 32 bits
    B, C = (v if v.stride(2) * steps < 2**31 else v.contiguous() for v in (B, C))
    if steps * channels >= 2**31:
        raise ValueError(
            f"selective_scan: the backward pass takes sequences of fewer than 2**31 elements, but "
            f"got {steps} steps of {channels} channels; set FASTVIM_BACKEND=torch"
        )
    chunk = CHUNK_STEPS
    width = BACKWARD_GROUPS * BACKWARD_LANES
    blocks = triton.cdiv(channels, width)
    wanted = BACKWARD_PROGRAMS * _processors(u.device)
    segment = _segment(2 * batch * blocks, steps, chunk, _processors(u.device))
    items = batch * triton.cdiv(steps, segment)
    # each program sums over several items, so that few partial sums of the parameters are written
    programs = triton.cdiv(items, triton.cdiv(items, max(1, wanted // (2 * blocks))))
    ends = starts
    if segment < steps:
        ends = _begins(
            dy.contiguous(), dt, dt_bias, A_log, C, segment, BACKWARD_LANES, reverse=True
        )
    du, ddt = torch.empty_like(u), torch.empty_like(dt)
    maps = _empty(u, blocks, 2, *B.shape)  # of B and C
    rates = _empty(u, programs, 2 * channels * (STATES + 1))  # of A_log, and after it of dt_bias
    parts = triton.cdiv(min(chunk, steps), BACKWARD_UNROLL)
    states = _empty(u, 2 * blocks * programs, parts, width * STATES)
    kernels.backward[(2 * blocks * programs,)](
        dy, u, dt, dt_bias, A_log, B, C, starts, ends, states,
        du, ddt, maps, rates, batch, steps, channels, segment, items, programs, parts,
        dy.stride(0), *B.stride()[:3], *C.stride()[:3],
        **_tile(BACKWARD_LANES), WHOLE=channels % width == 0, BLOCKS=BACKWARD_GROUPS,
        UNROLL=BACKWARD_UNROLL, EVEN=_even(steps, chunk, BACKWARD_UNROLL), CHUNK=chunk,
        DIVIDED=segment < steps, ALIGN=_alignment(B, C),
        num_warps=1,
    )  # fmt: skip
    dA_log, dbias, dB, dC = (v.new_empty(v.shape) for v in (A_log, dt_bias, B, C))
    sum_parts(rates, dA_log, dbias)
    sum_parts(maps, dB, dC)
    return du, ddt, dbias, dA_log, dB, dC


def _begins(
    v: Tensor,
    dt: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    W: Tensor,
    segment: int,
    lanes: int,
    *,
    reverse: bool = False,
) -> Tensor:
    """Return the state that each segment begins with; reversed, the gradient it ends with.

    v, W : u and B; reversed, dy and C. Returns (segment, 2, batch, channel, state).
    """
    _, batch, steps, channels = v.shape
    segments = triton.cdiv(steps, segment)
    states = _empty(v, segments, 2, batch, channels, STATES)
    totals = _empty(v, segments, 2, batch, channels)
    blocks = triton.cdiv(channels, lanes)
    kernels.segment[(2 * batch * segments * blocks,)](
        v, dt, dt_bias, A_log, W, states, totals,
        batch, steps, channels, segment, *W.stride()[:3],
        **_tile(lanes), WHOLE=channels % lanes == 0, UNROLL=UNROLL, REVERSE=reverse,
        ALIGN=_alignment(W), num_warps=1,
    )  # fmt: skip
    kernels.combine[(2 * batch * blocks,)](
        A_log, states, totals, batch, channels, segments,
        **_tile(lanes), REVERSE=reverse, num_warps=1,
    )  # fmt: skip
    return states


def _empty(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def _tile(lanes: int) -> dict[str, int]:
    """Return channels in a tile, lanes for each, and tiles for 16 states."""
    return {"EL": lanes, "NL": 32 // lanes, "TILES": STATES * lanes // 128}


def _forward_plan(
    batch: int, steps: int, channels: int, chunk: int, processors: int
) -> tuple[int, int, int]:
    """Return lanes and blocks of a warp, and steps of a segment: as many as leave enough warps.

    Two blocks share their loads of B and C. On an H200 they take 22 us for 24 at FastVim-S's width
    and 14 steps of 128 images, 43 for 45 at FastVim-B's, and longer where that leaves few warps.
    """
    if 2 * batch * triton.cdiv(channels, 64) >= 2 * FEW * processors:
        return 32, 2, steps
    for lanes in (32, 16, 8):
        if 2 * batch * triton.cdiv(channels, lanes) >= FEW * processors:
            return lanes, 1, steps
    lanes = 8 if steps < 2 * SEGMENT_STEPS else 32
    return lanes, 1, _segment(2 * batch * triton.cdiv(channels, lanes), steps, chunk, processors)


def _forward_unroll(steps: int, chunk: int) -> tuple[int, bool]:
    """Return the steps that are loaded together, and whether they divide all chunks."""
    for unroll in FORWARD_UNROLLS:
        if _even(steps, chunk, unroll):
            return unroll, True
    return UNROLL, False


def _even(steps: int, chunk: int, unroll: int) -> bool:
    """Whether so many steps divide all chunks."""
    return steps % unroll == 0 and (steps <= chunk or chunk % unroll == 0)


def _segment(warps: int, steps: int, chunk: int, processors: int) -> int:
    """Return steps of a segment, whole chunks or all."""
    if warps >= FEW * processors or steps < 2 * SEGMENT_STEPS:
        return steps
    segments = triton.cdiv(MANY * processors, warps)
    least = max(SEGMENT_STEPS, triton.cdiv(steps, segments))
    return min(steps, triton.cdiv(least, chunk) * chunk)


@functools.cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1  # Triton's interpreter
    return torch.cuda.get_device_properties(device).multi_processor_count


def _unit_stride(v: Tensor) -> Tensor:
    return v if v.stride(-1) == 1 else v.contiguous()


def _alignment(*rows: Tensor) -> int:
    """Bytes, up to 16, that divide the addresses of all steps' states."""
    return math.gcd(
        16,
        *(v.data_ptr() for v in rows),
        *(s * v.element_size() for v in rows for s in v.stride()[:3]),
    )
