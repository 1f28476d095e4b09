"""What beats what: the trained head, neighbours and the baselines that see no morphology."""

import json
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cellpipe.figures import style

NAMES = {
    "head": "trained head",
    "knn": "nearest neighbours",
    "intensity": "intensity of the site",
    "cell_count_and_intensity": "cell count and intensity",
    "cell_count": "cell count",
}
LEVELS = {"well": style.ACCENT, "cell": "#88CCEE"}


def draw_accuracy(metrics: Path, *, output: Path, part: str = "test") -> None:
    """Draw the balanced accuracy of every method of ``metrics.json``, by well and by cell."""
    found = json.loads(metrics.read_text())
    methods = [name for name in NAMES if name in found["classification"]]
    y = np.arange(len(methods))[::-1]
    with style.figure(9.5, 0.75 * len(methods) + 1.9, output) as figure:
        figure.suptitle(f"{part} part of split '{found['split']}', {style.listed(found['plates'])}")
        axes = figure.subplots()
        chances = set()
        for (level, colour), shift in zip(LEVELS.items(), (0.2, -0.2), strict=True):
            for position, method in zip(y, methods, strict=True):
                result = found["classification"][method].get(part, {}).get(level)
                if not result or not result["n"]:
                    continue
                value = result["balanced_accuracy"]
                axes.barh(position + shift, value, height=0.38, color=colour)
                text = f" {value:.1%}  (n={result['n']:,})"
                axes.text(value, position + shift, text, va="center", size=9.5)
                chances.add(result["chance"])
        for chance in chances:
            axes.axvline(chance, color="k", ls=":", lw=1.2)
        handles: list[Artist] = [
            Patch(color=colour, label=f"by {level}") for level, colour in LEVELS.items()
        ]
        handles.append(Line2D([], [], color="k", ls=":", label="chance"))
        axes.set_yticks(y, [NAMES[method] for method in methods])
        axes.set(xlim=(0, 1.22), xlabel="balanced accuracy")
        axes.set_xticks(np.linspace(0, 1, 6), [f"{v:.0%}" for v in np.linspace(0, 1, 6)])
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
