"""Replicate mAP of the perturbations, beside control wells that played a compound."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cellpipe import schema
from cellpipe.figures import style

MOST_BARS = 30
PRECISION = "mean_normalized_average_precision"


def draw_replicates(replicability: Path, *, output: Path) -> None:
    """Draw the normalised mAP of every perturbation and whether it is significant.

    0 is a random order of replicates and controls, 1 means that replicates always come first.
    Normalised, because the plain mAP of a random order depends on how many replicates there are.
    With many perturbations the first 30 are named and the rest form a curve. Without any replicates
    the figure says so.

    Parameters
    ----------
    replicability
        CSV of `cellpipe evaluate`.
    """
    table = pd.read_csv(replicability, keep_default_na=False, na_values={PRECISION: [""]})
    name = table.columns[0]
    control = table[schema.PERT_TYPE] == schema.NEGCON
    untested = int(table.loc[~control, PRECISION].isna().sum())
    table = table[table[PRECISION].notna()]
    if table.empty:
        # Many a plate holds each compound once; its report is none the less complete.
        with style.figure(9, 3.2, output) as figure:
            figure.suptitle("No perturbation has replicates")
            figure.text(
                0.5, 0.4, f"{style.counted(untested, 'perturbation')} in one well each", ha="center"
            )
        return
    table = table.assign(significant=table["significant"].astype(str) == "True")
    table = table.sort_values(PRECISION, ascending=False).reset_index(drop=True)
    treated = table[table[schema.PERT_TYPE] != schema.NEGCON]
    held_out = table[table[schema.PERT_TYPE] == schema.NEGCON]
    title = f"{treated['significant'].sum()} of {len(treated)} perturbations active (q < 0.05)"
    title += f", wells on {style.counted(int(table['n_plates'].max()), 'plate')}"
    if untested:
        title += f"; {untested} not tested"
    many = len(treated) > MOST_BARS
    shown = pd.concat([treated.head(MOST_BARS), held_out])
    height = max(3.2, 0.3 * len(shown) + 1.6)
    with style.figure(14 if many else 9, height, output) as figure:
        figure.suptitle(title)
        if many:
            left, right = figure.subplots(1, 2)
            _curve(left, treated, held_out)
        else:
            right = figure.subplots()
        _lollipops(right, shown.iloc[::-1], name)
        _legend(figure, right)
        if many:
            right.set_title(f"first {MOST_BARS}")


def _colours(table: pd.DataFrame) -> np.ndarray:
    colours = np.where(table["significant"], style.ACCENT, style.OTHER)
    return np.where(table[schema.PERT_TYPE] == schema.NEGCON, style.CONTROL, colours)


def _lollipops(axes: Axes, table: pd.DataFrame, name: str) -> None:
    y = np.arange(len(table))
    colours = _colours(table)
    axes.hlines(y, 0, table[PRECISION], color=colours, lw=2.5)
    axes.scatter(table[PRECISION], y, c=colours, s=60, zorder=3, edgecolors="k", lw=0.4)
    axes.set_yticks(y, [style.shortened(str(value)) for value in table[name]])
    axes.set_ylim(-0.6, len(table) - 0.4)
    for position, (_, row) in enumerate(table.iterrows()):
        axes.annotate(
            f"n={int(row['n_wells'])}  {_p_value(row)}",
            (1, position),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            size=9,
        )
    axes.axvline(0, color="k", lw=0.8)
    axes.set_xlim(min(-0.05, table[PRECISION].min() - 0.03), 1.03)
    axes.set_xlabel("normalised mAP (0: random order, 1: replicates first)")


def _p_value(row: pd.Series) -> str:
    letter = "p" if row[schema.PERT_TYPE] == schema.NEGCON else "q"
    return f"{letter}={float(row['corrected_p_value']):.2g}"


def _curve(axes: Axes, treated: pd.DataFrame, held_out: pd.DataFrame) -> None:
    axes.scatter(np.arange(1, len(treated) + 1), treated[PRECISION], c=_colours(treated), s=22)
    for value in held_out[PRECISION]:
        axes.axhline(value, color=style.CONTROL, ls="--", lw=1.5)
    axes.axhline(0, color="k", lw=0.8)
    axes.set(xlabel="rank of the perturbation", ylabel="normalised mAP", title="all")
    axes.set_ylim(top=1.03)


def _legend(figure: Figure, axes: Axes) -> None:
    entries = (
        ("active, q < 0.05", style.ACCENT),
        ("not significant", style.OTHER),
        ("held-out controls (median p)", style.CONTROL),
    )
    for label, colour in entries:
        axes.scatter([], [], c=colour, s=60, edgecolors="k", lw=0.4, label=label)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
