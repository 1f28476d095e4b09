"""A small Cell Painting data set with known truth, drawn in the layout of the JUMP gallery."""

from cellpipe.simulate.dataset import simulate

__all__ = ["simulate"]
