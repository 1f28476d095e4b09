"""Residual addition and normalisation, one pass each way.

Bound by memory. With a bfloat16 `hidden` of D channels, a token moves 12 D bytes forward (hidden 2,
residual 4, sum 4, normed 2) and 16 D backward (dnormed 2, dtotal 4, sum 4, gradients 2 and 4), 18
where what was normalised is asked for again. A warp takes a row and holds it in registers, in parts
of 4 channels a lane: 16 bytes of float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastvim_kernels.gpu.math import processors, register_cap
from fastvim_kernels.gpu.rows import (
    centre,
    cut,
    load_part,
    load_rows,
    squares,
    store_part,
    store_sums,
    sum_rows,
    zero_rows,
)
from fastvim_kernels.gpu.sums import sum_parts

LANES = 128  # channels of a part: 32 lanes of 4
ROWS = tl.constexpr(4)  # rows of a tile, and warps of a program


@triton.jit
def _forward_kernel(
    hidden,
    residual,
    weight,
    bias,
    normed,
    total,
    stats,
    rows,
    residual_rows,
    eps,
    WIDTH: tl.constexpr,
    PART: tl.constexpr,
    PARTS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = row < rows
    offset = row.to(tl.int64) * WIDTH
    added = load_rows(hidden, offset, live, WIDTH, PART, PARTS)
    if residual is not None:
        of_stream = (row % residual_rows).to(tl.int64) * WIDTH
        stream = load_rows(residual, of_stream, live, WIDTH, PART, PARTS)
    x = ()
    for part in tl.static_range(PARTS):
        tile = added[part].to(tl.float32)
        if residual is not None:
            tile += stream[part].to(tl.float32)
        store_part(total, offset, live, tile, part, WIDTH)
        x = x + (tile,)
    if bias is not None:
        mean = sum_rows(x, PARTS) / WIDTH
        x = centre(x, mean, WIDTH, PART, PARTS)
    else:
        mean = tl.zeros([ROWS], tl.float32)
    scale = tl.rsqrt(squares(x, PARTS) / WIDTH + eps)
    tl.store(stats + row, mean, mask=live)
    tl.store(stats + rows + row, scale, mask=live)
    for part in tl.static_range(PARTS):
        tile = x[part] * scale[:, None] * load_part(weight, part, WIDTH, PART, ROWS)
        if bias is not None:
            tile += load_part(bias, part, WIDTH, PART, ROWS)
        store_part(normed, offset, live, tile, part, WIDTH)


@triton.jit
def _backward_kernel(
    dnormed,
    dtotal,
    total,
    stats,
    weight,
    bias,
    dhidden,
    dresidual,
    normed,
    sums,
    rows,
    SETS: tl.constexpr,
    WIDTH: tl.constexpr,
    PART: tl.constexpr,
    PARTS: tl.constexpr,
):
    program, programs = tl.program_id(0), tl.num_programs(0)
    dweights = zero_rows(ROWS, PART, PARTS)
    dbiases = zero_rows(ROWS, PART, PARTS)
    for first in range(program * ROWS, rows, programs * ROWS):
        row = first + tl.arange(0, ROWS)
        live = row < rows
        offset = row.to(tl.int64) * WIDTH
        gradient = load_rows(dnormed, offset, live, WIDTH, PART, PARTS)
        x = load_rows(total, offset, live, WIDTH, PART, PARTS)
        if dtotal is not None:
            beside = load_rows(dtotal, offset, live, WIDTH, PART, PARTS)
        scale = tl.load(stats + rows + row, mask=live, other=0.0)
        if SETS == 2:
            mean = tl.load(stats + row, mask=live, other=0.0)
            x = centre(x, mean, WIDTH, PART, PARTS)
        xhat, weighted, products = (), (), ()
        of_weight, of_bias = (), ()
        for part in tl.static_range(PARTS):
            d = gradient[part].to(tl.float32)
            h = x[part] * scale[:, None]
            of_weight = of_weight + (dweights[part] + d * h,)
            if SETS == 2:
                of_bias = of_bias + (dbiases[part] + d,)
            w = load_part(weight, part, WIDTH, PART, ROWS)
            if normed is not None:
                tile = h * w
                if bias is not None:
                    tile += load_part(bias, part, WIDTH, PART, ROWS)
                store_part(normed, offset, live, tile, part, WIDTH)
            d = d * w
            xhat = xhat + (h,)
            weighted = weighted + (d,)
            products = products + (d * h,)
        dweights = of_weight
        along = sum_rows(products, PARTS) / WIDTH
        if SETS == 2:
            dbiases = of_bias
            shift = sum_rows(weighted, PARTS) / WIDTH
        for part in tl.static_range(PARTS):
            tile = weighted[part] - xhat[part] * along[:, None]
            if SETS == 2:
                tile -= shift[:, None]
            tile *= scale[:, None]
            if dtotal is not None:
                tile += beside[part].to(tl.float32)
            store_part(dhidden, offset, live, tile, part, WIDTH)
            if dresidual is not None:
                store_part(dresidual, offset, live, tile, part, WIDTH)
    sums += program * SETS * WIDTH
    store_sums(sums, dweights, WIDTH, PART, PARTS)
    if SETS == 2:
        store_sums(sums + WIDTH, dbiases, WIDTH, PART, PARTS)


def _residency(width: int) -> tuple[int, int]:
    """Programs that a multiprocessor runs at a time in the backward pass, and their registers.

    The most for which such rows and their sums fit without spills.
    """
    if width <= 512:
        return 6, 80
    return (3, 168) if width <= 1024 else (2, 255)


def _without_repeats(residual: Tensor) -> Tensor:
    """Return the first image's rows where all images share them, such as positions."""
    return residual[:1] if residual.dim() > 1 and residual.stride(0) == 0 else residual


def forward(
    hidden: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As `fastvim_kernels.add_norm._norm`."""
    width = hidden.shape[-1]
    hidden = hidden.contiguous()
    residual = None if residual is None else _without_repeats(residual).contiguous()
    normed = torch.empty_like(hidden)
    total = torch.empty_like(hidden, dtype=torch.float32)
    stats = total.new_empty(2, *hidden.shape[:-1], 1)
    rows = hidden.numel() // width
    part, parts = cut(width, LANES)
    _forward_kernel[(triton.cdiv(rows, ROWS.value),)](
        hidden,
        residual,
        weight.contiguous(),
        None if bias is None else bias.contiguous(),
        normed,
        total,
        stats,
        rows,
        0 if residual is None else residual.numel() // width,
        eps,
        WIDTH=width,
        PART=part,
        PARTS=parts,
        num_warps=ROWS.value,
    )
    return normed, total, stats


def backward(
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
    dhidden = torch.empty_like(total, dtype=dtype)
    dresidual = torch.empty_like(total) if of_residual else None
    normed = torch.empty_like(dhidden) if again else None
    resident, registers = _residency(width)
    programs = min(triton.cdiv(rows, ROWS.value), resident * processors(total.device))
    sets = 1 if bias is None else 2
    sums = total.new_empty(programs, sets, width)
    part, parts = cut(width, LANES)
    _backward_kernel[(programs,)](
        dnormed.contiguous(),
        None if dtotal is None else dtotal.contiguous(),
        total,
        stats,
        weight.contiguous(),
        None if bias is None else bias.contiguous(),
        dhidden,
        dresidual,
        normed,
        sums,
        rows,
        SETS=sets,
        WIDTH=width,
        PART=part,
        PARTS=parts,
        num_warps=ROWS.value,
        **register_cap(dnormed, registers),
    )
    dweight, dbias = total.new_empty(width), total.new_empty(0 if bias is None else width)
    sum_parts(sums, dweight, dbias)
    return (
        dhidden,
        total.new_empty(0) if dresidual is None else dresidual,
        dweight,
        dbias,
        dhidden.new_empty(0) if normed is None else normed,
    )
