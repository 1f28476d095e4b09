"""How a mixer walks over the token grid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ROWS, COLUMNS, CHANNELS = 0, 1, 2
"""Axes of a token grid (batch, row, column, channel, dim), counted without the batch."""


@dataclass(frozen=True)
class Traversal:
    """The order in which one block visits the tokens, and what it pools.

    order
        The grid's axes, slowest first; the convolution and the scan follow it.
    pooled
        Axes averaged (or maximised) away before the scan.
    """

    order: tuple[int, ...]
    pooled: tuple[int, ...] = ()

    @property
    def pool(self) -> tuple[int, ...]:
        """Positions of the pooled axes in `order`."""
        return tuple(self.order.index(axis) for axis in self.pooled)

    def arrange(self, tokens: Tensor) -> Tensor:
        """Put the axes of (batch, *grid, dim) tokens in this order; a view."""
        return tokens.permute(0, *(axis + 1 for axis in self.order), -1)

    def restore(self, tokens: Tensor) -> Tensor:
        """Undo `arrange`."""
        back = (self.order.index(axis) + 1 for axis in range(len(self.order)))
        return tokens.permute(0, *back, -1)


SEQUENCE = (Traversal((0,)),)
"""Every block scans every token of a sequence (Vim)."""


def image_cycle(*, rotate: bool) -> tuple[Traversal, ...]:
    """Traversals of successive blocks on a (row, column) grid (FastVim).

    Even blocks scan rows and pool columns, odd blocks the reverse; without `rotate` all scan rows.
    """
    row_scan = Traversal((ROWS, COLUMNS), (COLUMNS,))
    column_scan = Traversal((COLUMNS, ROWS), (ROWS,))
    return (row_scan, column_scan) if rotate else (row_scan,)


def channel_cycle(
    *, channel_first: bool, rotate: bool, compress_2d: bool = False
) -> tuple[Traversal, ...]:
    """Traversals of successive blocks on a (row, column, channel) grid (FastChannelVim).

    channel_first : the channel is the fastest axis, else the slowest.
    compress_2d : pool two axes at a time and scan the third: rows, columns, channels in turn.
    """

    def order(slow: int, fast: int) -> tuple[int, ...]:
        return (slow, fast, CHANNELS) if channel_first else (CHANNELS, slow, fast)

    also = (CHANNELS,) if compress_2d else ()
    row_scan = Traversal(order(ROWS, COLUMNS), (COLUMNS, *also))
    column_scan = Traversal(order(COLUMNS, ROWS), (ROWS, *also)) if rotate else row_scan
    channel_scan = Traversal(order(ROWS, COLUMNS), (ROWS, COLUMNS))
    return (row_scan, column_scan, channel_scan) if compress_2d else (row_scan, column_scan)


@dataclass(frozen=True)
class KeptTokens:
    """The tokens of a grid that masking kept (FastMaskVim).

    index
        Places of each sample's tokens in the flattened grid, ascending: (batch, token).
    grid
        Size of every axis of the whole grid.
    mirrored
        Let the backward direction take its steps from the forward sequence, as in the published
        pre-training: its n-th token from the end then counts as the n-th from the start.
    """

    index: Tensor
    grid: tuple[int, ...]
    mirrored: bool = False

    def along(self, traversal: Traversal) -> "KeptWalk":
        """Walk over the kept tokens in the order of a traversal."""
        places = self._places()
        rank = _flat_index(places, self.grid, traversal.order)
        permutation = rank.argsort(dim=1)
        scanned = [axis for axis in traversal.order if axis not in traversal.pooled]
        step = _flat_index(places, self.grid, scanned).take_along_dim(permutation, 1)
        steps = math.prod([self.grid[axis] for axis in scanned])  # a list, for the compiler
        backward = steps - 1 - step.flip(1) if self.mirrored else step
        return KeptWalk(
            permutation,
            permutation.argsort(dim=1),
            torch.stack([step, backward]),
            steps,
            math.prod(self.grid),
        )

    def _places(self) -> list[Tensor]:
        """Index of each token on every axis; PyTorch's own function makes a GPU wait."""
        index = self.index
        places: list[Tensor] = []
        for size in reversed(self.grid):
            places.insert(0, index % size)
            index = index // size
        return places


@dataclass(frozen=True)
class KeptWalk:
    """Kept tokens in the order of one traversal.

    permutation, inverse
        Tokens in that order, (batch, token), and where each of them lies in it.
    step
        The step of the scan that each token belongs to, (2, batch, token): one for each direction.
    steps, tokens
        Steps and tokens of the whole grid.
    pool
        No axis: the tokens are a sequence, and `mean` pools them instead.
    """

    permutation: Tensor
    inverse: Tensor
    step: Tensor
    steps: int
    tokens: int
    pool: tuple[int, ...] = ()

    def arrange(self, tokens: Tensor) -> Tensor:
        """Put (batch, token, dim) tokens in the traversal's order."""
        return tokens.take_along_dim(self.permutation.unsqueeze(-1), 1)

    def restore(self, tokens: Tensor) -> Tensor:
        """Undo `arrange`."""
        return tokens.take_along_dim(self.inverse.unsqueeze(-1), 1)

    def mean(self, u: Tensor) -> Tensor:
        """Sum kept tokens by step and divide by the whole grid's tokens in a step.

        (2, batch, token, channel) to (2, batch, step, channel). A masked token counts as zero, and
        a step without tokens is zero.
        """
        wide = torch.promote_types(u.dtype, torch.float32)
        total = u.new_zeros(*u.shape[:2], self.steps, u.shape[-1], dtype=wide)
        index = self.step.unsqueeze(-1).expand(u.shape)
        return total.scatter_add(2, index, u.to(wide)) / (self.tokens // self.steps)

    def expand(self, y: Tensor) -> Tensor:
        """Give each token its step: (2, batch, step, channel) to (2, batch, token, channel)."""
        return y.take_along_dim(self.step.unsqueeze(-1), 2)


def _flat_index(places: Sequence[Tensor], grid: Sequence[int], axes: Sequence[int]) -> Tensor:
    """Index into the grid flattened over some axes, slowest first."""
    index = torch.zeros_like(places[0])
    for axis in axes:
        index = index * grid[axis] + places[axis]
    return index
