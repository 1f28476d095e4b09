"""Rows of channels in registers, as a few tiles [ROWS, PART], so that 768 = 3 * 256 pads nothing.

A tile of so many rows as a program has warps, and of 32 vectors a row, is laid out with one warp a
row, where a sum over a row needs no shared memory. Twice the part spans two warps a row.
"""

import triton
import triton.language as tl


@triton.jit
def load_rows(pointer, offset, live, WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr):
    """Load the rows at `offset`, [ROWS], as PARTS tiles; zero where `live` is false and as padding.

    The tiles keep the dtype in memory, in which they take fewer registers.
    """
    column = tl.arange(0, PART)[None, :]
    first = pointer + offset[:, None] + column  # one address in registers, the parts' are constants
    parts = ()
    for part in tl.static_range(PARTS):
        mask = live[:, None] & (column < WIDTH - part * PART)
        parts = parts + (tl.load(first + part * PART, mask=mask, other=0.0),)
    return parts


@triton.jit
def store_part(pointer, offset, live, tile, part: tl.constexpr, WIDTH: tl.constexpr):
    """Store the tile numbered `part` of the rows at `offset`."""
    PART: tl.constexpr = tile.shape[1]
    column = tl.arange(0, PART)[None, :]
    first = pointer + offset[:, None] + column
    mask = live[:, None] & (column < WIDTH - part * PART)
    tl.store(first + part * PART, tile, mask=mask)


@triton.jit
def load_part(
    pointer, part: tl.constexpr, WIDTH: tl.constexpr, PART: tl.constexpr, ROWS: tl.constexpr
):
    """Load the part of a row that all rows share, [ROWS, PART], in float32; zero as padding.

    Every row loads it, as spreading one row's [1, PART] over the warps takes barriers.
    """
    column = tl.zeros([ROWS], tl.int32)[:, None] + tl.arange(0, PART)[None, :]
    mask = column < WIDTH - part * PART
    return tl.load(pointer + column + part * PART, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def sum_rows(parts, PARTS: tl.constexpr):
    """Sum over the channels of rows given as float32 tiles: [ROWS]."""
    total = parts[0]
    for part in tl.static_range(1, PARTS):
        total += parts[part]
    return tl.sum(total, 1)


@triton.jit
def _add_pairs(a, b, c, d):
    return a + c, b + d


@triton.jit
def sum_pairs(first, second, PARTS: tl.constexpr):
    """Sum two sets of rows as `sum_rows` does, with one exchange between warps."""
    left, right = first[0], second[0]
    for part in tl.static_range(1, PARTS):
        left += first[part]
        right += second[part]
    return tl.reduce((left, right), 1, _add_pairs)


@triton.jit
def centre(parts, mean, WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr):
    """Subtract a mean, [ROWS], from rows; padding stays zero."""
    centred = ()
    for part in tl.static_range(PARTS):
        tile = parts[part] - mean[:, None]
        if part * PART + PART > WIDTH:
            column = part * PART + tl.arange(0, PART)
            tile = tl.where((column < WIDTH)[None, :], tile, 0.0)
        centred = centred + (tile,)
    return centred


@triton.jit
def squares(parts, PARTS: tl.constexpr):
    """Sum of squares over the channels of rows: [ROWS]."""
    total = parts[0] * parts[0]
    for part in tl.static_range(1, PARTS):
        total += parts[part] * parts[part]
    return tl.sum(total, 1)


@triton.jit
def zero_rows(ROWS: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr):
    """Float32 zeros as tiles of rows."""
    parts = ()
    for _ in tl.static_range(PARTS):
        parts = parts + (tl.zeros([ROWS, PART], tl.float32),)
    return parts


@triton.jit
def store_sums(pointer, parts, WIDTH: tl.constexpr, PART: tl.constexpr, PARTS: tl.constexpr):
    """Sum tiles over their rows and store the row of sums."""
    for part in tl.static_range(PARTS):
        column = part * PART + tl.arange(0, PART)
        tl.store(pointer + column, tl.sum(parts[part], 0), mask=column < WIDTH)


def cut(width: int, widest: int, narrowest: int = 128) -> tuple[int, int]:
    """Size and number of the parts of a row: the least padding, then the fewest parts.

    widest, narrowest : bounds of the size, powers of two.
    """
    size = widest
    best = size, -(-width // size)
    while size > narrowest:
        size //= 2
        parts = -(-width // size)
        if size * parts < best[0] * best[1]:
            best = size, parts
    return best
