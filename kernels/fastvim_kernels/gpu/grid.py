"""Token grids of any strides, as kernels address them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor


class Walk(NamedTuple):
    """A grid as (outer, pooled, inner) tokens, of which (outer, inner) are the steps."""

    outer: int
    pooled: int
    inner: int


def walk(grid: Sequence[int], pool: Sequence[int]) -> Walk:
    """See a grid with adjacent pooled axes as three axes, scanned, pooled and scanned."""
    first, last = (min(pool), max(pool) + 1) if pool else (len(grid), len(grid))
    if sorted(pool) != list(range(first, last)):
        raise ValueError(f"pool: expected adjacent axes of the grid, got {tuple(pool)}")
    return Walk(*(math.prod(axes) for axes in (grid[:first], grid[first:last], grid[last:])))


def sizes(grid: Sequence[int]) -> tuple[int, int]:
    """Sizes of the second and third axis of a grid of one to three, for `token_offset`."""
    if not 1 <= len(grid) <= 3:
        raise ValueError(f"grid: expected one to three axes, got {tuple(grid)}")
    _, second, third = (*grid, 1, 1)[:3]
    return second, third


def strides(tokens: Tensor) -> tuple[int, int, int, int]:
    """Strides of (batch, *grid, channel) over the batch and three axes, for `token_offset`."""
    if tokens.stride(-1) != 1 and tokens.shape[-1] > 1:
        raise ValueError(f"expected channels of unit stride, got strides {tokens.stride()}")
    batch, first, second, third = (*tokens.stride()[:-1], 0, 0)[:4]
    return batch, first, second, third


@triton.jit
def token_offset(token, second, third, strides):
    """Offset of tokens, numbered in the order of the grid, from the start of their image."""
    row = token // third
    return (
        (row // second).to(tl.int64) * strides[1]
        + (row % second).to(tl.int64) * strides[2]
        + (token % third).to(tl.int64) * strides[3]
    )
