"""Confusion of the classes, by well and by cell."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cellpipe.figures import style

MOST_LABELLED = 30
"""Classes whose names fit at the axes; with more, the best and the worst are listed instead."""

LISTED = 12


def draw_confusion(
    metrics: Path, *, output: Path, method: str = "head", part: str = "test"
) -> None:
    """Draw the confusion of one method on one part of the split, rows summing to 1.

    Classes that do not occur there are grey.

    Parameters
    ----------
    metrics
        ``metrics.json`` of `cellpipe evaluate`.
    method, part
        Keys of its ``classification``.
    """
    found = json.loads(metrics.read_text())
    labels = found["labels"]
    results = found["classification"][method][part]
    small = len(labels) <= MOST_LABELLED
    side = max(5.5, 0.34 * len(labels) + 2.5) if small else 7.0
    with style.figure(2 * side + 1, side + (0.0 if small else 1.6), output) as figure:
        figure.suptitle(
            f"{method}, {part} part of split '{found['split']}', {style.listed(found['plates'])}"
        )
        panels = figure.subplots(1, 2)
        for axes, level in zip(panels, ("well", "cell"), strict=True):
            _matrix(figure, axes, results.get(level), labels, level)


def _matrix(
    figure: Figure, axes: Axes, result: dict[str, Any] | None, labels: list[str], level: str
) -> None:
    if result is None or result["n"] == 0:
        axes.axis("off")
        axes.text(0.5, 0.5, f"no {level}s here", ha="center", va="center")
        return
    counts = np.array(result["confusion"], float)
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    cmap = colormaps["Blues"].with_extremes(bad=style.MISSING)
    shown = axes.imshow(share, cmap=cmap, vmin=0, vmax=1)
    figure.colorbar(shown, ax=axes, fraction=0.046, pad=0.03, label="share of the true class")
    axes.set_title(
        f"{result['n']:,} {level}s: accuracy {result['accuracy']:.1%}, "
        f"balanced {result['balanced_accuracy']:.1%}\n"
        f"(chance {result['chance']:.1%}, largest class {result['majority']:.1%})"
    )
    axes.set(xlabel="predicted", ylabel="true")
    if len(labels) > MOST_LABELLED:
        axes.set_xlabel("predicted\n\n" + _extremes(result["recall"]), linespacing=1.4)
        return
    names = [style.shortened(name) for name in labels]
    axes.set_xticks(range(len(labels)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), names)
    if len(labels) <= 12:
        for (row, column), value in np.ndenumerate(share):
            if np.isfinite(value) and value >= 0.005:
                colour = "white" if value > 0.6 else "black"
                text = f"{value:.0%}"
                axes.text(column, row, text, ha="center", va="center", color=colour, size=9)


def _extremes(recall: dict[str, float | None]) -> str:
    known = {name: value for name, value in recall.items() if value is not None}
    order = sorted(known, key=lambda name: -known[name])
    best = [f"{style.shortened(name, 16)} {known[name]:.0%}" for name in order[:LISTED]]
    lines = [", ".join(best[i : i + 4]) for i in range(0, len(best), 4)]
    never = sum(value == 0 for value in known.values())
    return "\n".join(
        ["best recognised:", *lines, f"never recognised: {never} of {len(known)} classes"]
    )
