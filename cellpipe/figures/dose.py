"""Dose response of the wells: principal component and linear read-out."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from cellpipe import schema
from cellpipe.errors import CellpipeDataError
from cellpipe.figures import style

KINDS = {
    "negative control": (style.CONTROL, "o"),
    "treated": (style.ACCENT, "o"),
    "treated, test part": (style.SECOND, "^"),
}


def draw_dose(metrics: Path, *, output: Path) -> None:
    """Draw first principal component, cross-validated and held-out read-out against the dose.

    Parameters
    ----------
    metrics
        ``metrics.json`` of `cellpipe evaluate` with a dose column.
    """
    found = json.loads(metrics.read_text())
    dose = found["dose"]
    if dose is None:
        raise CellpipeDataError(f"{metrics}: no dose read-out. Set evaluate.dose_column")
    wells = pd.DataFrame(dose["wells"])
    levels = np.sort(wells["dose"].unique())
    wells["level"] = np.searchsorted(levels, wells["dose"])
    rho = dose["spearman"]
    panels = {
        "pc1": ("first principal component", "PC1 (sign follows the dose)"),
        "cross_validated": ("ridge, cross-validated", "predicted dose rank"),
        "held_out": (f"ridge, test part of split '{found['split']}'", "predicted dose rank"),
    }
    with style.figure(15, 5.1, output) as figure:
        figure.suptitle(f"{dose['column']}, {dose['n']} wells, {style.listed(found['plates'])}")
        for axes, (key, (title, label)) in zip(figure.subplots(1, 3), panels.items(), strict=True):
            value = rho[key]
            spearman = "too few wells" if value is None else f"Spearman {value:.2f}"
            axes.set_title(f"{title}\n{spearman}")
            _points(axes, wells[wells[key].notna()], key)
            if key != "pc1":
                axes.axline((0, 1), slope=1, color="k", lw=0.8, ls=":")
            axes.set(xlabel=dose["column"].removeprefix("Metadata_"), ylabel=label)
            axes.set_xlim(-0.6, len(levels) - 0.4)
            step = -(-len(levels) // 12)
            ticks = range(0, len(levels), step)
            axes.set_xticks(ticks, [f"{levels[i]:g}" for i in ticks])
        handles = [
            Line2D([], [], color=colour, marker=marker, ls="", label=kind)
            for kind, (colour, marker) in KINDS.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)


def _points(axes: Axes, wells: pd.DataFrame, key: str) -> None:
    control = wells[schema.PERT_TYPE] == schema.NEGCON
    # Wells of one dose side by side, in a fixed order.
    order = wells.groupby("level").cumcount()
    size = wells.groupby("level")[key].transform("size")
    x = wells["level"] + (order - (size - 1) / 2) * np.minimum(0.08, 0.6 / size)
    test = wells["split"] == "test"
    for mask, (colour, marker) in zip(
        (control, ~control & ~test, ~control & test), KINDS.values(), strict=True
    ):
        axes.scatter(x[mask], wells.loc[mask, key], c=colour, marker=marker, s=36, lw=0)
    medians = wells.groupby("level")[key].median()
    axes.plot(medians.index, medians, color="k", lw=1, alpha=0.5)
