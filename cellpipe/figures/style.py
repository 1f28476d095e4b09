"""Colours, fonts and saving, shared by all figures."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from cellpipe.errors import CellpipeValueError
from fastvim.files import atomic_path

CONTROL = "#777777"
"""Negative controls."""

OTHER = "#d0d0d0"
"""Whatever is not named in the legend."""

MISSING = "#ececec"
"""A well without cells."""

ACCENT = "#0072B2"
SECOND = "#D55E00"

PALETTE = (
    *("#332288", "#CC6677", "#44AA99", "#DDAA33", "#88CCEE"),
    *("#882255", "#117733", "#EE7733", "#AA4499", "#999933"),
)
"""Distinct under the common colour vision deficiencies, after Paul Tol's muted and vibrant sets."""

MARKERS = ("o", "^", "s")

MOST_NAMED = 20
"""Categories that get a colour and a name; ten colours and a change of marker tell them apart."""

FONTS: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "legend.fontsize": 10,
    "figure.titlesize": 13,
    "svg.hashsalt": "cellpipe",  # else names in the file are drawn at random
}


@dataclass(frozen=True)
class Look:
    """How one category is drawn."""

    colour: str
    marker: str


def looks(names: Sequence[str]) -> dict[str, Look]:
    """Give each of at most 30 categories a look of its own, in order."""
    return {
        name: Look(PALETTE[i % len(PALETTE)], MARKERS[i // len(PALETTE)])
        for i, name in enumerate(names)
    }


@contextmanager
def figure(width: float, height: float, output: Path) -> Iterator[Figure]:
    """Yield a figure of some inches and write it to `output` (``.png`` or ``.svg``) atomically."""
    if output.suffix not in (".png", ".svg"):
        raise CellpipeValueError(f"figure {output}: expected a .png or .svg, got {output.suffix!r}")
    with matplotlib.rc_context(FONTS):
        # Without pyplot: no window, nothing to close.
        drawn = Figure(figsize=(width, height), layout="constrained")
        yield drawn
        with atomic_path(output) as temporary:
            # No date in the file: the same data give the same figure.
            metadata = {"Date": None} if output.suffix == ".svg" else {}
            drawn.savefig(temporary, format=output.suffix[1:], dpi=150, metadata=metadata)


def listed(names: Sequence[str], most: int = 3) -> str:
    """Names for a title: all of a few, the number of many."""
    return ", ".join(names) if len(names) <= most else f"{len(names)} plates"


def counted(number: int, noun: str) -> str:
    """``1 plate``, ``2 plates``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def shortened(name: str, most: int = 24) -> str:
    """Cut a long name for a tick or a legend."""
    return name if len(name) <= most else f"{name[: most - 1]}…"
