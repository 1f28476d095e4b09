"""Heat maps of a plate: number of cells, intensities, and how well each well's replicates agree."""

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cellpipe import schema
from cellpipe.baselines import intensity_columns
from cellpipe.embeddings import as_text
from cellpipe.figures import style
from cellpipe.profile import COUNT_CELLS
from cellpipe.wells import FORMATS, inside, parse_well


def draw_plate_map(wells: Path, *, plate: str, output: Path, metrics: Path | None = None) -> None:
    """Draw one plate well by well: cells, mean intensity of every channel, replicate precision.

    Parameters
    ----------
    wells
        Well profiles of `cellpipe profile`; a plate that is not among them had no cells, and the
        figure says so.
    metrics
        ``metrics.json`` of `cellpipe evaluate`; adds the normalised average precision of the wells
        (1 where a well finds all its replicates before any control, 0 for a random order).
    """
    obs = as_text(anndata.read_h5ad(wells, backed="r").obs)
    if plate not in set(obs[schema.PLATE]):
        with style.figure(6.2, 3, output) as figure:
            figure.suptitle(f"Plate {plate}: no cells")
        return
    obs = obs[obs[schema.PLATE] == plate].set_index(schema.WELL)
    panels = {
        title: obs[column]
        for column, title in (
            (schema.CELL_COUNT, "nuclei"),
            (COUNT_CELLS, "embedded cells"),
            *((name, f"{name[3:-5]} mean intensity") for name in intensity_columns(obs)),
        )
        if column in obs
    }
    if metrics is not None:
        precision = json.loads(metrics.read_text())["replicability"]["wells"].get(plate, {})
        panels["normalised average precision"] = pd.Series(precision, dtype=float)
    rows, columns = _plate_shape(obs.index)
    controls = obs.index[obs[schema.PERT_TYPE] == schema.NEGCON]
    across = 2 if len(panels) <= 4 else 3
    down = -(-len(panels) // across)
    with style.figure(6.2 * across, 3.9 * down + 0.8, output) as figure:
        figure.suptitle(f"Plate {plate}  (grey: no value;  ○ negative control)")
        grid = figure.subplots(down, across, squeeze=False).ravel()
        for axes, (title, values) in zip(grid, panels.items(), strict=False):
            _heat_map(figure, axes, title, values, rows, columns)
            y, x = _positions(controls)
            axes.scatter(x, y, s=500 / rows, facecolors="none", edgecolors="k", lw=1.6)
            axes.scatter(x, y, s=500 / rows, facecolors="none", edgecolors="w", lw=0.7)
        for axes in grid[len(panels) :]:
            axes.axis("off")


def _heat_map(
    figure: Figure, axes: Axes, title: str, values: pd.Series, rows: int, columns: int
) -> None:
    image = np.full((rows, columns), np.nan)
    image[_positions(values.index)] = values
    cmap = colormaps["viridis"].with_extremes(bad=style.MISSING)
    low, high = (0, 1) if title.startswith("normalised") else (None, None)
    shown = axes.imshow(image, cmap=cmap, vmin=low, vmax=high, aspect="equal")
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, extend="min" if low == 0 else "neither")
    if pd.api.types.is_integer_dtype(values):
        bar.locator = MaxNLocator(6, integer=True)
    every = 1 if columns <= 12 else 2 if columns <= 24 else 4
    axes.set_xticks(range(0, columns, every), [str(i + 1) for i in range(0, columns, every)])
    letters = [schema.well_name(i, 0)[:-2] for i in range(rows)]
    axes.set_yticks(range(rows), letters)
    axes.tick_params(length=0, labelsize=10 if rows <= 8 else 9 if rows <= 16 else 5)
    axes.set_title(title)


def _positions(wells: pd.Index) -> tuple[np.ndarray, np.ndarray]:
    """Zero-based rows and columns of wells."""
    places = np.array([parse_well(well) for well in wells], int).reshape(-1, 2)
    return places[:, 0], places[:, 1]


def _plate_shape(wells: pd.Index) -> tuple[int, int]:
    """Rows and columns of the smallest plate that holds all `wells`."""
    places = [parse_well(well) for well in wells]
    return next(shape for shape in FORMATS if all(inside(place, shape) for place in places))
