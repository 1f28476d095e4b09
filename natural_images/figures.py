"""Colours, fonts and saving, shared by all pictures."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastvim.files import atomic_path
from natural_images.errors import NaturalImagesValueError

RIGHT = "#0072B2"
"""What is right, or simply the data."""

WRONG = "#D55E00"
"""What is wrong, or the distance from where it should be."""

RIGHT_PALE, WRONG_PALE = "#9cc7e2", "#f0b48c"
"""The same two where they are a part of something."""

REFERENCE = "#777777"
"""Lines to compare with, and whatever is said in passing."""

GRID = "#e4e4e4"

FONTS: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 10,
    "figure.titlesize": 13,
    "text.parse_math": False,  # files and classes may have a $ in their names
    "svg.hashsalt": "natural_images",  # else names in the file are drawn at random
}

DOTS_PER_INCH = 150


@contextmanager
def figure(width: float, height: float, output: Path) -> Iterator[Figure]:
    """Yield a figure of some inches and write it to `output` (``.png`` or ``.svg``) atomically."""
    output = Path(output)
    if output.suffix not in (".png", ".svg"):
        raise NaturalImagesValueError(
            f"figure {output}: expected a .png or .svg, got {output.suffix!r}"
        )
    with matplotlib.rc_context(FONTS):
        # without pyplot: no window, nothing to close
        drawn = Figure(figsize=(width, height), layout="constrained")
        yield drawn
        with atomic_path(output) as temporary:
            # no date in the file: the same data give the same picture
            metadata = {"Date": None} if output.suffix == ".svg" else {}
            drawn.savefig(temporary, format=output.suffix[1:], dpi=DOTS_PER_INCH, metadata=metadata)


def bare(axes: Axes) -> None:
    """Take ticks and frame away, as for a photograph."""
    axes.set(xticks=[], yticks=[])
    axes.set_frame_on(False)


def shortened(name: str, most: int = 24) -> str:
    """Cut a long name for a tick or a title."""
    return name if len(name) <= most else f"{name[: most - 1]}…"
