"""Cutting a batch of token grids into pieces that fit the processor's cache."""

import math
from collections.abc import Iterator, Sequence

PIECE = 1 << 19
"""Elements of one piece (2 MB in float32)."""


def pieces(
    batch: int, grid: Sequence[int], channel: int, *, split_rows: bool
) -> Iterator[tuple[slice, slice]]:
    """Slices of the batch and of the grid's first axis; whole grids unless `split_rows`."""
    row = math.prod(grid[1:]) * channel
    rows = min(grid[0], max(1, PIECE // row)) if split_rows else grid[0]
    images = max(1, PIECE // (grid[0] * row)) if rows == grid[0] else 1
    for image in range(0, batch, images):
        for start in range(0, grid[0], rows):
            yield (
                slice(image, min(image + images, batch)),
                slice(start, min(start + rows, grid[0])),
            )
