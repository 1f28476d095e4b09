"""Adding up what many programs have of some gradients, in a fixed order, so that runs agree."""

import math
from itertools import accumulate

import triton
import triton.language as tl
from torch import Tensor

MOST_ROWS = 128  # of a tile
COLUMNS = tl.constexpr(32)  # of a tile: 128 bytes of a row, and programs enough for short rows


@triton.jit
def _sum_kernel(parts, first, second, third, count, size, to_second, to_third, ROWS: tl.constexpr):
    column = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < size
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    for above in range(0, count, ROWS):
        row = above + tl.arange(0, ROWS)
        at = parts + row.to(tl.int64)[:, None] * size + column[None, :]
        sums += tl.load(at, mask=(row < count)[:, None] & inside[None, :], other=0.0)
    total = tl.sum(sums, 0)
    tl.store(first + column, total, mask=inside & (column < to_second))
    if second is not None:
        between = (column >= to_second) & (column < to_third)
        tl.store(second + (column - to_second), total, mask=inside & between)
    if third is not None:
        tl.store(third + (column - to_third), total, mask=inside & (column >= to_third))


def sum_parts(parts: Tensor, *results: Tensor) -> None:
    """Sum contiguous float32 (part, ...) over its first axis, into one to three results.

    They are contiguous, of any dtype, and have the elements of a part between them, in their order:
    a launch for several gradients, which then share no memory.
    """
    count, size = len(parts), math.prod(parts.shape[1:])
    if not size:
        return
    ends = list(accumulate(result.numel() for result in results))
    first, second, third = [*results, None, None][:3]
    to_second, to_third = [*ends, size, size][:2]
    rows = min(MOST_ROWS, triton.next_power_of_2(count))
    _sum_kernel[(triton.cdiv(size, COLUMNS.value),)](
        parts, first, second, third, count, size, to_second, to_third,
        ROWS=rows, num_warps=min(8, max(1, rows // 8)),
    )  # fmt: skip
