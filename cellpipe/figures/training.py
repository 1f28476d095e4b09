"""Curves of one training run: loss, accuracy, learning rate."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from cellpipe.errors import CellpipeDataError
from cellpipe.figures import style

SMOOTHED_OVER = 50
"""The line through the noisy loss of single steps averages the run's steps / this many."""


def draw_training(curves: Path, *, output: Path) -> None:
    """Draw loss, accuracy and learning rate over the steps.

    Parameters
    ----------
    curves
        The folder of a run with ``train.csv`` (a row a step) and, when some cells validate,
        ``validation.csv`` (a row an epoch).
    """
    train = _read(curves / "train.csv")
    path = curves / "validation.csv"
    validation = _read(path) if path.exists() else pd.DataFrame(columns=["step"])
    with style.figure(15, 4.6, output) as figure:
        epochs = int(train["epoch"].iloc[-1])
        figure.suptitle(f"Training, {len(train):,} steps, {epochs} epochs")
        panels = figure.subplots(1, 3)
        for axes, column in zip(panels, ("loss", "accuracy"), strict=False):
            _curve(axes, train, validation, column)
        best = validation.get("accuracy", pd.Series(dtype=float)).max()
        if pd.notna(best):
            panels[1].set_title(f"accuracy on cells (best validation {best:.1%})")
        panels[2].plot(train["step"], train["lr"], color="k", lw=1.5)
        panels[2].set_title("learning rate")
        panels[2].set_ylim(bottom=0)
        for axes in panels:
            axes.set_xlabel("step")
            axes.grid(alpha=0.3)


def _read(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
    except (OSError, pd.errors.EmptyDataError) as error:
        raise CellpipeDataError(f"{path}: no training curves ({error})") from error
    missing = {"step", "epoch", "loss"} - set(table)
    if missing or table.empty:
        raise CellpipeDataError(
            f"{path}: expected rows with step, epoch and loss, got {len(table)} rows with "
            f"{list(table.columns)}"
        )
    return table


def _curve(axes: Axes, train: pd.DataFrame, validation: pd.DataFrame, column: str) -> None:
    axes.set_title(column)
    if column in train:
        window = max(1, len(train) // SMOOTHED_OVER)
        smooth = train[column].rolling(window, min_periods=1, center=True).mean()
        axes.plot(train["step"], train[column], color=style.ACCENT, lw=0.6, alpha=0.3)
        axes.plot(train["step"], smooth, color=style.ACCENT, lw=1.8, label="training")
    if column in validation:
        marker = "o" if len(validation) <= 50 else ""
        axes.plot(
            validation["step"],
            validation[column],
            color=style.SECOND,
            lw=1.8,
            marker=marker,
            label="validation",
        )
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    else:
        axes.text(0.5, 0.5, "not recorded", ha="center", transform=axes.transAxes)
