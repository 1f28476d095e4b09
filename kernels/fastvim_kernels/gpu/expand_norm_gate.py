"""The scan's output back on the full grid, one pass each way.

Bound by memory. In bfloat16 a token of E channels moves 6 E bytes forward (skipped, gate, result)
and 10 E bytes backward (those inputs, the result's gradient and both of theirs). The scan's output
is read once for many tokens of one step, which a program walks through; a warp or a few hold a
token's channels in registers, and the next ones are loaded meanwhile. What tokens share besides,
the norm's parameters, comes from the L1 cache every time, as registers are what limits the bytes in
flight.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastvim_kernels.gpu.grid import sizes, strides, token_offset, walk
from fastvim_kernels.gpu.math import fast_math, processors, register_cap, sigmoid, silu
from fastvim_kernels.gpu.rows import (
    centre,
    cut,
    load_part,
    load_rows,
    squares,
    store_part,
    store_sums,
    sum_pairs,
    sum_rows,
    zero_rows,
)
from fastvim_kernels.gpu.sums import sum_parts

FORWARD_ITEMS = 2048  # programs to aim for: two waves of a large card, and long enough walks
BACKWARD_ITEMS = 1024  # as many as run at a time: splitting steps costs another sum
FORWARD_HELD, BACKWARD_HELD = 24, 12  # channels a lane holds without spills, under these caps:
FORWARD_REGISTERS, BACKWARD_REGISTERS = 128, 168
RESIDENT_WARPS = 12  # a multiprocessor, under the latter


@triton.jit
def _place(item, steps, spans, span, inner, pooled):
    """Batch, step, first token and first row of a work item: a span of the tokens of a step."""
    part = item % spans
    step = item // spans % steps
    batch = (item // spans // steps).to(tl.int64)
    first = step // inner * (pooled * inner) + step % inner
    return batch, step, first, part * span


@triton.jit
def _offset(batch, rows, of_step, tensor_strides):
    """Offset of tokens of a step; `of_step` is its first token, and what `token_offset` takes."""
    first, inner, second, third = of_step
    token = first + rows * inner
    return batch * tensor_strides[0] + token_offset(token, second, third, tensor_strides)


@triton.jit
def _load(
    pointer, batch, rows, last, of_step, tensor_strides,
    WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Load tokens of a step, zeros from `last` on."""
    offset = _offset(batch, rows, of_step, tensor_strides)
    return load_rows(pointer, offset, rows < last, WIDTH, PART, PARTS)


@triton.jit
def _load_half(
    y, direction, offset, live, WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr
):
    """Mean of both directions of the scan's output."""
    forth = load_rows(y, offset, live, WIDTH, PART, PARTS)
    back = load_rows(y + direction, offset, live, WIDTH, PART, PARTS)
    half = ()
    for part in tl.static_range(PARTS):
        half = half + (0.5 * (forth[part].to(tl.float32) + back[part].to(tl.float32)),)
    return half


@triton.jit
def _mix(half, skip, PARTS: tl.constexpr):
    mixed = ()
    for part in tl.static_range(PARTS):
        mixed = mixed + (half[part] + 0.5 * skip[part].to(tl.float32),)
    return mixed


@triton.jit
def _standardise(mixed, eps, WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr):
    """Centre rows, and return with them 1 / deviation, [ROWS]."""
    centred = centre(mixed, sum_rows(mixed, PARTS) / WIDTH, WIDTH, PART, PARTS)
    return centred, tl.rsqrt(squares(centred, PARTS) / WIDTH + eps)


@triton.jit
def _forward_kernel(
    y,
    skipped,
    z,
    weight,
    bias,
    out,
    direction,
    steps,
    spans,
    span,
    pooled,
    inner,
    second,
    third,
    skipped_strides,
    z_strides,
    out_strides,
    eps,
    WIDTH: tl.constexpr,
    PART: tl.constexpr,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    SHARED: tl.constexpr,
    FAST: tl.constexpr,
):
    batch, step, first, start = _place(tl.program_id(0), steps, spans, span, inner, pooled)
    last = min(start + span, pooled)
    of_step = first, inner, second, third
    if SHARED:
        shared = (batch * steps + step) * WIDTH + tl.zeros([ROWS], tl.int64)
        half = _load_half(y, direction, shared, shared >= 0, WIDTH, PART, PARTS)
    rows = start + tl.arange(0, ROWS)
    skip = _load(skipped, batch, rows, last, of_step, skipped_strides, WIDTH, PART, PARTS)
    gate = _load(z, batch, rows, last, of_step, z_strides, WIDTH, PART, PARTS)
    for _ in range(start, last, ROWS):
        # the next tokens are on their way while these are computed
        later = rows + ROWS
        skip_next = _load(skipped, batch, later, last, of_step, skipped_strides, WIDTH, PART, PARTS)
        gate_next = _load(z, batch, later, last, of_step, z_strides, WIDTH, PART, PARTS)
        if not SHARED:
            own = (batch * pooled + rows) * WIDTH
            half = _load_half(y, direction, own, rows < last, WIDTH, PART, PARTS)
        mixed = _mix(half, skip, PARTS)
        if weight is not None:
            mixed, scale = _standardise(mixed, eps, WIDTH, PART, PARTS)
        of_out = _offset(batch, rows, of_step, out_strides)
        for part in tl.static_range(PARTS):
            tile = mixed[part]
            if weight is not None:
                tile = tile * scale[:, None] * load_part(weight, part, WIDTH, PART, ROWS)
                tile += load_part(bias, part, WIDTH, PART, ROWS)
            tile *= silu(gate[part].to(tl.float32), FAST)
            store_part(out, of_out, rows < last, tile, part, WIDTH)
        skip, gate, rows = skip_next, gate_next, later


@triton.jit
def _backward_kernel(
    dout,
    y,
    skipped,
    z,
    weight,
    bias,
    dy,
    dskipped,
    dz,
    gated,
    sums,
    items,
    direction,
    steps,
    spans,
    span,
    pooled,
    inner,
    second,
    third,
    dout_strides,
    skipped_strides,
    z_strides,
    dskipped_strides,
    dz_strides,
    eps,
    WIDTH: tl.constexpr,
    PART: tl.constexpr,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    SHARED: tl.constexpr,
    FAST: tl.constexpr,
):
    program = tl.program_id(0)
    dweights = zero_rows(ROWS, PART, PARTS)
    dbiases = zero_rows(ROWS, PART, PARTS)
    for ahead in range(0, items - program, tl.num_programs(0)):
        item = program + ahead
        batch, step, first, start = _place(item, steps, spans, span, inner, pooled)
        dhalf = zero_rows(ROWS, PART, PARTS)
        last = min(start + span, pooled)
        of_step = first, inner, second, third
        rows = start + tl.arange(0, ROWS)
        skip = _load(skipped, batch, rows, last, of_step, skipped_strides, WIDTH, PART, PARTS)
        gate = _load(z, batch, rows, last, of_step, z_strides, WIDTH, PART, PARTS)
        gradient = _load(dout, batch, rows, last, of_step, dout_strides, WIDTH, PART, PARTS)
        for _ in range(start, last, ROWS):
            # the next tokens are on their way while these are computed
            later = rows + ROWS
            skip_next = _load(
                skipped, batch, later, last, of_step, skipped_strides, WIDTH, PART, PARTS
            )
            gate_next = _load(z, batch, later, last, of_step, z_strides, WIDTH, PART, PARTS)
            gradient_next = _load(
                dout, batch, later, last, of_step, dout_strides, WIDTH, PART, PARTS
            )
            live = rows < last
            if SHARED:
                of_y = (batch * steps + step) * WIDTH + tl.zeros([ROWS], tl.int64)
            else:
                of_y = (batch * pooled + rows) * WIDTH
            half = _load_half(y, direction, of_y, live, WIDTH, PART, PARTS)
            mixed = _mix(half, skip, PARTS)
            if weight is not None:
                mixed, scale = _standardise(mixed, eps, WIDTH, PART, PARTS)
            of_dz = _offset(batch, rows, of_step, dz_strides)
            of_dskip = _offset(batch, rows, of_step, dskipped_strides)
            xhat, dmixed, products = (), (), ()
            of_weight, of_bias = (), ()
            for part in tl.static_range(PARTS):
                d, g = gradient[part].to(tl.float32), gate[part].to(tl.float32)
                s = sigmoid(g, FAST)
                h = mixed[part]
                if weight is not None:
                    h = h * scale[:, None]
                    w = load_part(weight, part, WIDTH, PART, ROWS)
                    normed = h * w + load_part(bias, part, WIDTH, PART, ROWS)
                else:
                    normed = h
                if gated is not None:
                    store_part(gated, of_dskip, live, normed * g * s, part, WIDTH)
                # derivative of SiLU: s + g * s * (1 - s)
                store_part(dz, of_dz, live, d * normed * (s + g * s * (1 - s)), part, WIDTH)
                d = d * g * s
                if weight is not None:
                    of_weight = of_weight + (dweights[part] + d * h,)
                    of_bias = of_bias + (dbiases[part] + d,)
                    d = d * w
                    products = products + (d * h,)
                    xhat = xhat + (h,)
                dmixed = dmixed + (d,)
            if weight is not None:
                dweights, dbiases = of_weight, of_bias
                shift, along = sum_pairs(dmixed, products, PARTS)
                shift, along = shift / WIDTH, along / WIDTH
            of_half = ()
            for part in tl.static_range(PARTS):
                d = 0.5 * dmixed[part]
                if weight is not None:
                    d = dmixed[part] - shift[:, None] - xhat[part] * along[:, None]
                    d = d * (0.5 * scale)[:, None]
                store_part(dskipped, of_dskip, live, d, part, WIDTH)
                if SHARED:
                    of_half = of_half + (dhalf[part] + d,)
                else:
                    store_part(dy, of_y, live, d, part, WIDTH)
            if SHARED:
                dhalf = of_half
            skip, gate, gradient, rows = skip_next, gate_next, gradient_next, later
        if SHARED:
            # spans lie outermost in dy, and innermost among the items
            place = (item % spans).to(tl.int64) * (items // spans) + item // spans
            store_sums(dy + place * WIDTH, dhalf, WIDTH, PART, PARTS)
    if weight is not None:
        store_sums(sums + program * 2 * WIDTH, dweights, WIDTH, PART, PARTS)
        store_sums(sums + (program * 2 + 1) * WIDTH, dbiases, WIDTH, PART, PARTS)


class Plan(NamedTuple):
    """How a pass divides its work, and the shapes of its tiles."""

    steps: int  # of which the tokens share the scan's output
    spans: int  # work items a step
    span: int  # tokens of a work item
    pooled: int
    inner: int
    part: int
    parts: int
    rows: int
    warps: int
    shared: bool  # False where nothing is pooled: then all tokens are the one step's


def plan(z: Tensor, pool: Sequence[int], held: int, items: int) -> Plan:
    """Divide the work on (batch, *grid, channel) tokens.

    held : most channels that a lane may hold of a token. items : work items to aim for.
    """
    batch, *grid, width = z.shape
    outer, pooled, inner = walk(grid, pool)
    shared = pooled > 1
    if not shared:
        outer, pooled, inner = 1, outer * inner, 1
    of_row = 1  # warps of a token
    while of_row * 32 * held < width and of_row < 8:
        of_row *= 2
    warps = max(2, of_row)
    rows = warps // of_row
    part, parts = cut(width, of_row * 32 * (16 // z.element_size()), of_row * 128)
    steps = outer * inner
    spans = min(triton.cdiv(items, batch * steps), triton.cdiv(pooled, 2 * rows))
    span = triton.cdiv(triton.cdiv(pooled, spans), rows) * rows
    spans = triton.cdiv(pooled, span)
    return Plan(steps, spans, span, pooled, inner, part, parts, rows, warps, shared)


def forward(
    y: Tensor,
    skipped: Tensor,
    z: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    pool: Sequence[int],
    eps: float,
) -> Tensor:
    """As `fastvim_kernels.expand_norm_gate._forward`."""
    batch, *grid, width = z.shape
    if weight is not None and bias is not None:
        weight, bias = weight.contiguous(), bias.contiguous()
    out = torch.empty_like(z)
    p = plan(z, pool, FORWARD_HELD, FORWARD_ITEMS)
    _forward_kernel[(batch * p.steps * p.spans,)](
        y.contiguous(),
        skipped,
        z,
        weight,
        bias,
        out,
        y.numel() // 2,
        p.steps,
        p.spans,
        p.span,
        p.pooled,
        p.inner,
        *sizes(grid),
        strides(skipped),
        strides(z),
        strides(out),
        eps,
        WIDTH=width,
        PART=p.part,
        PARTS=p.parts,
        ROWS=p.rows,
        SHARED=p.shared,
        FAST=fast_math(z),
        num_warps=p.warps,
        **register_cap(z, FORWARD_REGISTERS),
    )
    return out


def backward(
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
    batch, *grid, width = z.shape
    if weight is not None and bias is not None:
        weight, bias = weight.contiguous(), bias.contiguous()
    if dout.stride(-1) != 1:  # such as that of a sum, expanded
        dout = dout.contiguous()
    dskipped, dz = torch.empty_like(skipped), torch.empty_like(z) if out is None else out
    gated = torch.empty_like(skipped) if again else None
    p = plan(z, pool, BACKWARD_HELD, BACKWARD_ITEMS)
    items = batch * p.steps * p.spans
    programs = min(items, RESIDENT_WARPS // p.warps * processors(z.device))
    _, _, step, _ = y.shape
    partial = p.shared and p.spans > 1
    dy = y.new_empty(
        (p.spans if partial else 1, batch, step, width), dtype=torch.float32 if partial else y.dtype
    )
    parts = z.new_empty(programs, 2, 0 if weight is None else width, dtype=torch.float32)
    _backward_kernel[(programs,)](
        dout,
        y.contiguous(),
        skipped,
        z,
        weight,
        bias,
        dy,
        dskipped,
        dz,
        gated,
        None if weight is None else parts,
        items,
        y.numel() // 2,
        p.steps,
        p.spans,
        p.span,
        p.pooled,
        p.inner,
        *sizes(grid),
        strides(dout),
        strides(skipped),
        strides(z),
        strides(dskipped),
        strides(dz),
        eps,
        WIDTH=width,
        PART=p.part,
        PARTS=p.parts,
        ROWS=p.rows,
        SHARED=p.shared,
        FAST=fast_math(z),
        num_warps=p.warps,
        **register_cap(z, BACKWARD_REGISTERS),
    )
    if partial:
        partial_dy, dy = dy, y.new_empty(dy.shape[1:])
        sum_parts(partial_dy, dy)
    else:
        dy = dy.squeeze(0)
    dweight, dbias = (parts.new_empty(parts.shape[2:]) for _ in range(2))
    sum_parts(parts, dweight, dbias)
    return dy, dskipped, dz, dweight, dbias, z.new_empty(0) if gated is None else gated
