"""Cutting a batch of token grids into pieces that fit the processor's cache."""

import math
from collections.abc import Iterator, Sequence

import torch

# The C library of Linux maps blocks larger than any that was freed, up to 32 MB, and returns freed
# memory beyond twice that size, so that every tensor of megabytes faults in its pages anew: 6,000
# to 40,000 of them in a pass of FastVim-T at 512 px. One such block, never touched, ends this.
torch.empty((32 << 20) - (1 << 16), dtype=torch.uint8, device="cpu")


def wide(dtype: torch.dtype) -> torch.dtype:
    """Precision of the arithmetic on tokens of a dtype: float32, or float64 on float64 tokens."""
    return torch.promote_types(dtype, torch.float32)


def piece_elements(device: torch.device) -> int:
    """Elements to work on at a time.

    On a CPU 1 MB in float32, so that a handful of tensors of that size share the cache, and that
    the allocator reuses their memory instead of faulting in fresh pages: with 2 MB FastVim-T at
    512 px touched ten times as many (fastest of 2^17 to 2^19 elements on a two-core EPYC).
    Elsewhere as many as memory allows, since launches cost more than traffic.
    """
    return 1 << (18 if device.type == "cpu" else 26)


def pieces(
    batch: int, grid: Sequence[int], channel: int, device: torch.device, *, split_rows: bool
) -> Iterator[tuple[slice, slice]]:
    """Slices of the batch and of the grid's first axis; whole grids unless `split_rows`."""
    limit = piece_elements(device)
    row = math.prod(grid[1:]) * channel
    rows = min(grid[0], max(1, limit // row)) if split_rows else grid[0]
    images = max(1, limit // (grid[0] * row)) if rows == grid[0] else 1
    for image in range(0, batch, images):
        for start in range(0, grid[0], rows):
            yield (
                slice(image, min(image + images, batch)),
                slice(start, min(start + rows, grid[0])),
            )
