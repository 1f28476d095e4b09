"""Segmentations as pictures: classes as colours over the photograph, and their names beside it."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from PIL import Image
from skimage.color import rgb2lab

from fastvim.files import atomic_path
from natural_images.figures import bare, figure, shortened
from natural_images.segmentation.ade20k import IGNORED

OPACITY = 0.6
"""Of the colours over the photograph."""
LIFT = 70
"""Of the greys below them, which go from this to 255."""
NAMED = 16
"""The most classes that are named beside a picture, the largest first."""
PANEL_INCHES = 4.0
LEGEND_INCHES = 2.4
NAME_INCHES = 0.25
"""Height of a name in the legend."""
LONGEST_DRAWN = 700
"""Longer side of a picture as it is drawn, in px."""


@cache
def palette(classes: int) -> np.ndarray:
    """One colour a class, (class, 3) uint8, each as far as can be from those before it in CIELAB.

    So the first are told apart best, and a class has one colour however many there are.
    """
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = rgb2lab(colours / 255)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    # Neither near black nor near white nor grey, which photographs are full of; nor glaring.
    kept = (lab[:, 0] > 40) & (lab[:, 0] < 85) & (chroma > 25) & (chroma < 68)
    colours, lab = colours[kept], lab[kept]
    chosen = [int(np.argmin(np.abs(colours.astype(int) - (0, 119, 187)).sum(axis=1)))]
    distance = np.full(len(colours), np.inf)
    while len(chosen) < classes:
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
        chosen.append(int(distance.argmax()))
    return colours[chosen]


def overlay(image: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Lay the colours of `labels` (h, w) over the grey `image` (h, w, 3) uint8, areas edged white.

    Pixels of the label 255 keep the photograph's own colours.
    """
    # Lifted, or the colours over shadows would all be black.
    grey = LIFT + (1 - LIFT / 255) * image.mean(axis=2, keepdims=True)
    labelled = (labels != IGNORED)[..., None]
    colours = palette(classes)[np.where(labels == IGNORED, 0, labels)]
    mixed = np.where(labelled, OPACITY * colours + (1 - OPACITY) * grey, image)
    mixed[_edges(labels)] = 255
    return mixed.astype(np.uint8)


def draw_overlay(
    image: np.ndarray,
    segmentations: Mapping[str, np.ndarray],
    classes: Sequence[str],
    output: Path,
    *,
    title: str,
) -> None:
    """Draw an image and its segmentations side by side, with a legend of the largest classes.

    Parameters
    ----------
    image
        (h, w, 3) uint8.
    segmentations
        Labels (h, w), 255 where there is none, by what stands above them. The legend gives the
        shares of the last one.
    classes
        Names of all classes.
    output
        The picture, ``.png``.
    """
    height, width = image.shape[:2]
    factor = LONGEST_DRAWN / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    panels = {"Image": image}
    shown = {}
    for name, labels in segmentations.items():
        shown[name] = np.asarray(
            Image.fromarray(labels.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
        )
        panels[name] = overlay(image, shown[name], len(classes))
    names = _largest(shown)
    tall = min(1.5 * PANEL_INCHES, PANEL_INCHES * height / width)
    tall = max(tall, NAME_INCHES * min(len(names), NAMED + 1))
    with figure(PANEL_INCHES * len(panels) + LEGEND_INCHES, tall + 0.7, output) as drawn:
        axes = drawn.subplots(
            1,
            len(panels) + 1,
            squeeze=False,
            width_ratios=[PANEL_INCHES] * len(panels) + [LEGEND_INCHES],
        )[0]
        for place, (name, pixels) in zip(axes, panels.items(), strict=False):
            place.imshow(pixels)
            place.set_title(name)
            place.set_anchor("N")
            bare(place)
        bare(axes[-1])
        _legend(axes[-1], names, list(shown.values())[-1], classes)
        # Names of files may have bytes that are no text.
        drawn.suptitle(title.encode(errors="replace").decode(), x=0.004, ha="left")


def save_labels(labels: np.ndarray, classes: int, output: Path) -> None:
    """Write labels (h, w) as an annotation of ADE20K's format that viewers show in colours.

    Class k is stored as k + 1, and 0 where the label is 255; the palette has the overlay's colours.
    """
    stored = Image.fromarray(labels.astype(np.uint8) + np.uint8(1))
    stored.putpalette(np.concatenate([np.zeros((1, 3), np.uint8), palette(classes)]).tobytes())
    with atomic_path(output) as temporary:
        stored.save(temporary, format="PNG")


def _edges(labels: np.ndarray) -> np.ndarray:
    """Pixels (h, w) with another label above, below or beside them."""
    edges = np.zeros(labels.shape, bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    return edges


def _largest(segmentations: Mapping[str, np.ndarray]) -> list[int]:
    """Labels in any of the segmentations, the largest first."""
    counts = sum(np.bincount(s.ravel(), minlength=IGNORED + 1) for s in segmentations.values())
    present = np.array(counts)[:IGNORED]
    return [int(label) for label in np.argsort(-present, kind="stable") if present[label]]


def _legend(axes: Axes, present: Sequence[int], labels: np.ndarray, classes: Sequence[str]) -> None:
    """Names of the largest classes with their share of `labels`."""
    colours = palette(len(classes)) / 255
    handles = [
        Patch(
            facecolor=colours[label],
            label=f"{shortened(classes[label], 20)}  {_percent((labels == label).mean())}",
        )
        for label in present[:NAMED]
    ]
    if len(present) > NAMED:
        handles.append(Patch(alpha=0, label=f"and {len(present) - NAMED} more"))
    axes.legend(handles=handles, loc="upper left", frameon=False, handlelength=1.2, borderaxespad=0)


def _percent(share: float) -> str:
    if share == 0:
        return "0 %"
    return "< 1 %" if share < 0.01 else f"{share:.0%}".replace("%", " %")
