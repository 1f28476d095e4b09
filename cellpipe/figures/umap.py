"""UMAP of cells, coloured by perturbation and by where they were."""

from collections.abc import Sequence
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from cellpipe import schema
from cellpipe.classification import standardised_rows
from cellpipe.embeddings import Embeddings
from cellpipe.errors import CellpipeDataError
from cellpipe.figures import style

CELLS = 10_000
"""Cells drawn at random; UMAP takes about a minute for them on one core."""

FEWEST_CELLS = 20
COMPONENTS = 50


def draw_umap(
    embeddings: Sequence[Path],
    *,
    output: Path,
    perturbation: str = schema.PERT_NAME,
    seed: int = 0,
) -> None:
    """Draw a UMAP of the cells of some plates, standardised on the control cells of each plate.

    Left by perturbation; with many, the 20 whose mean lies farthest from the controls are named.
    Right by plate, or by column of the plate where there is one plate only, which shows gradients.
    """
    files = Embeddings.open_plates(embeddings)
    rows = pd.concat(
        [
            file.obs[[schema.PLATE, schema.WELL, schema.PERT_TYPE, perturbation]].assign(
                file=index, row=range(len(file.obs))
            )
            for index, file in enumerate(files)
        ],
        ignore_index=True,
    )
    total = len(rows)
    if total < FEWEST_CELLS:
        raise CellpipeDataError(f"UMAP: expected at least {FEWEST_CELLS} cells, got {total}")
    # The random order also keeps the class drawn last from covering the others.
    rows = rows.sample(min(CELLS, total), random_state=seed).reset_index(drop=True)
    values = standardised_rows(files, rows)
    layout = _umap(values, seed)
    plates = sorted(file.plate for file in files)
    with style.figure(15, 6.5, output) as figure:
        of_all = "" if len(rows) == total else f" of {total:,}"
        figure.suptitle(f"UMAP of {len(rows):,}{of_all} cells, {style.listed(plates)}")
        left, right = figure.subplots(1, 2)
        named = _strongest(values, rows, perturbation)
        control = rows[schema.PERT_TYPE] == schema.NEGCON
        _scatter(left, layout, rows[perturbation].where(~control, "negative control"), named)
        left.set_title("by perturbation")
        if len(plates) > 1:
            _scatter(right, layout, rows[schema.PLATE], plates[: style.MOST_NAMED])
            right.set_title("by plate")
        else:
            column = rows[schema.WELL].str.extract(r"(\d+)$")[0].astype(int)
            points = right.scatter(
                layout[:, 0], layout[:, 1], s=_size(rows), c=column, cmap="viridis", lw=0
            )
            ticks = MaxNLocator(8, integer=True)
            figure.colorbar(points, ax=right, label="column of the plate", shrink=0.7, ticks=ticks)
            right.set_title(f"by position on {plates[0]}")
        for axes in (left, right):
            axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")


def _umap(values: np.ndarray, seed: int) -> np.ndarray:
    # Takes seconds to import, and no other figure needs it.
    import scanpy as sc

    data = anndata.AnnData(values)
    components = min(COMPONENTS, min(values.shape) - 1)
    sc.pp.pca(data, n_comps=components, random_state=seed)
    sc.pp.neighbors(data, n_neighbors=min(15, len(values) - 1), random_state=seed)
    sc.tl.umap(data, random_state=seed)
    return data.obsm["X_umap"]  # (cell, 2)


def _strongest(values: np.ndarray, rows: pd.DataFrame, perturbation: str) -> list[str]:
    """Names to show: all of a few, else those whose mean is farthest from the controls' (zero)."""
    treated = (rows[schema.PERT_TYPE] != schema.NEGCON) & (rows[perturbation] != "")
    names = rows.loc[treated, perturbation]
    means = pd.DataFrame(values[treated.to_numpy()]).groupby(names.to_numpy()).mean()
    distance = np.sqrt((means**2).sum(axis=1)).sort_values(ascending=False)
    return sorted(distance.index[: style.MOST_NAMED])


def _scatter(axes: Axes, layout: np.ndarray, names: pd.Series, named: Sequence[str]) -> None:
    looks = style.looks(named)
    size = _size(names)
    rest = ~names.isin(named).to_numpy()
    control = (names == "negative control").to_numpy()
    for mask, colour in ((rest & ~control, style.OTHER), (control, style.CONTROL)):
        axes.scatter(layout[mask, 0], layout[mask, 1], s=size, c=colour, lw=0, alpha=0.6)
    for marker in style.MARKERS:
        here = [name for name in named if looks[name].marker == marker]
        mask = names.isin(here).to_numpy()
        colours = [looks[name].colour for name in names[mask]]
        x, y = layout[mask].T
        axes.scatter(x, y, s=size * 1.5, c=colours, marker=marker, lw=0, alpha=0.8)
    entries = [(name, looks[name].colour, looks[name].marker) for name in named]
    if control.any():
        entries.insert(0, ("negative control", style.CONTROL, "o"))
    others = names[rest & ~control]
    if len(others):
        entries.append((f"{others.nunique()} others", style.OTHER, "o"))
    for name, colour, marker in entries:
        axes.scatter([], [], s=40, c=colour, marker=marker, label=style.shortened(name))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, handletextpad=0.1)


def _size(rows: pd.Series | pd.DataFrame) -> float:
    """Area of a point: smaller the more there are."""
    return float(np.clip(30_000 / len(rows), 3, 30))
