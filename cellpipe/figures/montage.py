"""Cells of each perturbation side by side, in colour and channel by channel."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from cellpipe import schema
from cellpipe.crop_store import CropStore
from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.figures import style

COLOURS = {
    "DNA": "#2a5bff",
    "ER": "#00c840",
    "RNA": "#ffd500",
    "AGP": "#ff8000",
    "Mito": "#ff2090",
}
"""Colours of Cell Painting's channels; others take what is left."""

MOST_ROWS = 12

CONTRAST = (1.0, 99.7)
"""Percentiles of a channel over all cells that are shown, drawn as black and as full colour."""


@dataclass(frozen=True)
class Drawn:
    """Crops chosen for one row: `name`, `control`, `crops` (cell, channel, y, x)."""

    name: str
    control: bool
    crops: np.ndarray


def draw_montage(
    crops: Sequence[Path],
    *,
    output: Path,
    perturbation: str = schema.PERT_NAME,
    perturbations: Sequence[str] = (),
    cells: int = 6,
    seed: int = 0,
) -> None:
    """Draw random cells of each perturbation.

    Every row is one perturbation, controls first: `cells` in colour, then the first of them channel
    by channel. The contrast of a channel is one for all cells, so brightness can be compared.
    Brightfield is left out of the colours.

    Parameters
    ----------
    crops
        Crop stores; plates must have the same channels.
    perturbations
        Rows to draw; without it the controls and the first of the others, 12 rows in all.
    """
    stores = [store for store in map(CropStore.open, crops) if len(store.cells)]
    if not stores:
        raise CellpipeDataError(f"montage: expected at least one cell, got none in {list(crops)}")
    channels = stores[0].channels
    for store in stores:
        if set(store.channels) != set(channels):
            raise CellpipeValueError(
                f"montage: {stores[0].path} has channels {list(channels)} and {store.path} "
                f"{list(store.channels)}. Draw them apart"
            )
    rows = _choose(stores, perturbation, perturbations, cells, seed)
    everything = np.concatenate([row.crops for row in rows])
    low, high = np.percentile(everything, CONTRAST, axis=(0, 2, 3))
    span = np.maximum(high - low, 1)[:, None, None]
    colours = channel_colours(channels)
    across = cells + len(channels)
    with style.figure(1.25 * across + 2, 1.25 * len(rows) + 1.3, output) as figure:
        plates = sorted({str(store.cells[schema.PLATE].iloc[0]) for store in stores})
        side = stores[0].array.shape[-1]
        pixel = stores[0].pixel_size_um
        size = f"{side * pixel:.0f} µm" if pixel else f"{side} px"
        figure.suptitle(f"Random cells, {style.listed(plates)}; a tile is {size} wide")
        figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
        grid = figure.subplots(len(rows), across, squeeze=False)
        for axes in grid.ravel():
            axes.set(xticks=[], yticks=[])
            axes.set_axis_off()
        for line, row in zip(grid, rows, strict=True):
            scaled = np.clip((row.crops - low[:, None, None]) / span, 0, 1)
            for axes, image in zip(line, scaled, strict=False):
                axes.imshow(composite(image, channels), interpolation="nearest")
            for axes, plane in zip(line[cells:], scaled[0], strict=True):
                axes.imshow(plane, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            _name_row(line[0], row)
        for axes, channel in zip(grid[0, cells:], channels, strict=True):
            axes.set_title(channel, size=10)
        for axes in grid[0, :cells]:
            axes.set_title(" ", size=10)
        for channel, colour in colours.items():
            grid[0, 0].scatter([], [], c=[colour], marker="s", s=80, label=channel)
        figure.legend(
            loc="outside lower center", ncols=len(colours) + 1, title="colours", frameon=False
        )


def channel_colours(channels: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """Colour of every fluorescent channel, by name; brightfield has none."""
    free = iter(["#ff2090", "#00c840", "#2a5bff", "#ffd500", "#00e0e0", "#ffffff"] * 4)
    return {
        channel: to_rgb(COLOURS[channel] if channel in COLOURS else next(free))
        for channel in channels
        if not channel.upper().endswith("BF") and "BRIGHT" not in channel.upper()
    }


def composite(image: np.ndarray, channels: Sequence[str]) -> np.ndarray:
    """Overlay (channel, y, x) of 0 to 1 in their colours: (y, x, 3) of 0 to 1."""
    colours = channel_colours(channels)
    chosen = [index for index, channel in enumerate(channels) if channel in colours]
    weights = np.array([colours[channels[index]] for index in chosen])
    light = image[chosen][..., None] * weights[:, None, None, :]  # (channel, y, x, 3)
    # Screen, as two projectors on one wall: no channel is dimmed for the others, none overflows.
    return 1 - np.prod(1 - light, axis=0)


def _choose(
    stores: Sequence[CropStore],
    perturbation: str,
    perturbations: Sequence[str],
    count: int,
    seed: int,
) -> list[Drawn]:
    table = pd.concat(
        [
            store.cells[[perturbation, schema.PERT_TYPE]].assign(
                store=index, row=range(len(store.cells))
            )
            for index, store in enumerate(stores)
        ],
        ignore_index=True,
    )
    control = table[schema.PERT_TYPE] == schema.NEGCON
    named = sorted(set(table[perturbation]) - {""})
    first = sorted(set(table.loc[control, perturbation]))
    wanted = list(perturbations) or [*first, *(n for n in named if n not in first)][:MOST_ROWS]
    unknown = sorted(set(wanted) - set(named))
    if unknown or not wanted:
        raise CellpipeDataError(f"montage: no cells of {unknown}; there are cells of {named[:20]}")
    rng = np.random.default_rng(seed)
    channels = stores[0].channels
    rows = []
    for name in wanted:
        here = np.flatnonzero(table[perturbation] == name)
        chosen = table.iloc[rng.permutation(here)[:count]]
        crops = [
            stores[index].read(part["row"].to_numpy(), stores[index].channel_indices(channels))
            for index, part in chosen.groupby("store")
        ]
        rows.append(Drawn(name, name in first, np.concatenate(crops).astype(np.float32)))
    return rows


def _name_row(axes: Axes, row: Drawn) -> None:
    axes.text(
        -0.08,
        0.5,
        style.shortened(row.name),
        transform=axes.transAxes,
        ha="right",
        va="center",
        weight="bold" if row.control else "normal",
    )
