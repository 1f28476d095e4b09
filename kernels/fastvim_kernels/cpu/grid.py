"""Token grids of any strides, as the C functions address them."""

import ctypes
import functools
from collections.abc import Sequence

import torch
from torch import Tensor


class ScatteredChannelsError(ValueError):
    """Channels do not lie side by side."""


class Tokens(ctypes.Structure):
    """A tensor (batch, *grid, channel) as `struct tokens` of common.h.

    Raises ScatteredChannelsError.
    """

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("image", ctypes.c_int64),
        ("place", ctypes.c_void_p),
    )

    def __init__(self, tensor: Tensor) -> None:
        if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
            raise ScatteredChannelsError(f"expected channels of stride 1, got {tensor.stride()}")
        place = _places(tensor.shape[1:-1], tensor.stride()[1:-1])
        super().__init__(tensor.data_ptr(), tensor.stride(0), place.data_ptr())
        self.memory = tensor, place  # lives as long as this


def steps(grid: Sequence[int], pool: Sequence[int]) -> Tensor:
    """Step that each token of a grid is pooled to, (token,) in int64.

    That is its place among the axes that are not pooled.
    """
    strides, size = [], 1
    for axis in reversed(range(len(grid))):
        strides.append(0 if axis in pool else size)
        size *= 1 if axis in pool else grid[axis]
    return _places(tuple(grid), tuple(reversed(strides)))


@functools.lru_cache(maxsize=256)
def _places(grid: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """Sum of index times stride of each element of a grid, in its order."""
    places = torch.zeros((), dtype=torch.int64, device="cpu")
    for size, stride in zip(grid, strides, strict=True):
        places = places.unsqueeze(-1) + torch.arange(size, device="cpu") * stride
    return places.flatten()
