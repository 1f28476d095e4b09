"""Adding up what many programs have of one gradient, in a fixed order, so that runs agree."""

import triton
import triton.language as tl
from torch import Tensor

MOST_ROWS = 128  # of a tile
COLUMNS = tl.constexpr(32)  # of a tile: 128 bytes of a row, and programs enough for short rows


@triton.jit
def _sum_kernel(parts, total, count, size, ROWS: tl.constexpr):
    column = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < size
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(0, count, ROWS):
        row = first + tl.arange(0, ROWS)
        at = parts + row.to(tl.int64)[:, None] * size + column[None, :]
        sums += tl.load(at, mask=(row < count)[:, None] & inside[None, :], other=0.0)
    tl.store(total + column, tl.sum(sums, 0), mask=inside)


def sum_parts(parts: Tensor) -> Tensor:
    """Sum contiguous float32 (part, ...) over its first axis."""
    count, *shape = parts.shape
    total = parts.new_empty(shape)
    if count == 1 or not total.numel():
        return parts.sum(0)
    rows = min(MOST_ROWS, triton.next_power_of_2(count))
    grid = (triton.cdiv(total.numel(), COLUMNS.value),)
    _sum_kernel[grid](
        parts, total, count, total.numel(), ROWS=rows, num_warps=min(8, max(1, rows // 8))
    )
    return total
