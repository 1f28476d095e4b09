"""Where the tokens of a grid lie in memory, and to which step each is pooled."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor


def places(tokens: Tensor) -> Tensor:
    """Offset of each token of an image, in the order of the grid: (token,) in int64.

    tokens : (batch, *grid, channel) of any strides but that of the channels, which is 1.
    """
    return _places(tokens.shape[1:-1], tokens.stride()[1:-1])


def steps(grid: Sequence[int], pool: Sequence[int]) -> Tensor:
    """Step of each token, (token,) in int64: its place among the axes that are not pooled."""
    strides, size = [], 1
    for axis in reversed(range(len(grid))):
        strides.append(0 if axis in pool else size)
        size *= 1 if axis in pool else grid[axis]
    return _places(tuple(grid), tuple(reversed(strides)))


@functools.lru_cache(maxsize=256)
def _places(grid: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    offsets = torch.zeros((), dtype=torch.int64)
    for size, stride in zip(grid, strides, strict=True):
        offsets = offsets.unsqueeze(-1) + torch.arange(size) * stride
    return offsets.flatten()
