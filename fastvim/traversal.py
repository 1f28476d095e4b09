"""How a mixer walks over the token grid."""

from collections.abc import Sequence
from dataclasses import dataclass

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

    order: tuple[int, int, int]
    pooled: tuple[int, ...]

    @property
    def pool(self) -> tuple[int, ...]:
        """Positions of the pooled axes in `order`."""
        return tuple(self.order.index(axis) for axis in self.pooled)


def alternate(pair: Sequence[Traversal], depth: int, *, rotate: bool) -> list[Traversal]:
    """Traversals of `depth` blocks: the two of `pair` in turn, or only the first."""
    return [pair[block % 2 if rotate else 0] for block in range(depth)]


SPATIAL = (
    Traversal((ROWS, COLUMNS, CHANNELS), (COLUMNS,)),
    Traversal((COLUMNS, ROWS, CHANNELS), (ROWS,)),
)
"""Even blocks scan rows and pool columns, odd blocks the reverse; channels are the fastest axis."""

CHANNEL_BY_CHANNEL = (
    Traversal((CHANNELS, ROWS, COLUMNS), (COLUMNS,)),
    Traversal((CHANNELS, COLUMNS, ROWS), (ROWS,)),
)
"""The same with the channels as the slowest axis."""
