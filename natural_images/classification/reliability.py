"""Whether a classifier is as often right as it says: reliability diagram and calibration error."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from natural_images import figures
from natural_images.errors import NaturalImagesValueError

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Predictions in equally wide bins of confidence, after Guo et al. 2017 (arXiv:1706.04599).

    counts
        (bin,) predictions whose confidence is above the bin's lower edge and up to its upper one.
    confidence, accuracy
        (bin,) mean confidence and share of right predictions, from 0 to 1; NaN for an empty bin.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance of accuracy from confidence, every bin weighed by its count."""
        gap = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        return float((gap * self.counts).sum() / self.counts.sum())


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> Reliability:
    """Bin predictions by their confidence.

    confidence : (n,) probability of the predicted class, from 0 to 1. right : (n,) bool.

    Raises NaturalImagesValueError where there is no prediction or no probability.
    """
    confidence, right = np.asarray(confidence, np.float64), np.asarray(right, bool)
    if not len(confidence) or len(confidence) != len(right):
        raise NaturalImagesValueError(
            f"reliability: expected as many confidences as answers and at least one, "
            f"got {len(confidence)} and {len(right)}"
        )
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise NaturalImagesValueError(
            f"reliability: expected probabilities from 0 to 1, got {confidence.min()} to "
            f"{confidence.max()}"
        )
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            counts=counts,
            confidence=np.bincount(place, confidence, minlength=bins) / counts,
            accuracy=np.bincount(place, right, minlength=bins) / counts,
        )


def draw_reliability(found: Reliability, *, output: Path, title: str) -> None:
    """Draw accuracy over confidence, and below it how many predictions have that confidence."""
    filled = found.counts > 0
    share = found.counts / found.counts.sum()
    accuracy = float((found.accuracy[filled] * share[filled]).sum())
    confidence = float((found.confidence[filled] * share[filled]).sum())
    with figures.figure(6.4, 7.6, output) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        figure.suptitle(title, x=0.02, ha="left")
        above.set_title(
            f"accuracy {accuracy:.1%}, mean confidence {confidence:.1%}, "
            f"{found.counts.sum():,} images\n"
            f"expected calibration error {found.expected_calibration_error:.1%}",
            size=11,
            color=figures.REFERENCE,
        )
        _accuracy(above, found, filled)
        edges = np.linspace(0, 1, len(found.counts) + 1)
        below.bar(edges[:-1], share, np.diff(edges), align="edge", color=figures.RIGHT, ec="white")
        below.set(xlabel="confidence: probability of the predicted class", ylabel="images")
        below.set_xlim(0, 1)
        below.xaxis.set_major_formatter(PercentFormatter(1))
        below.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        below.locator_params(axis="y", nbins=4)
        for axes in (above, below):
            axes.grid(color=figures.GRID)
            axes.set_axisbelow(True)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)


def _accuracy(axes: Axes, found: Reliability, filled: np.ndarray) -> None:
    """Bars up to the lower of accuracy and confidence, and on them the distance of the other."""
    edges = np.linspace(0, 1, len(found.counts) + 1)[:-1][filled]
    right, sure = found.accuracy[filled], found.confidence[filled]
    bars: dict[str, Any] = {"width": 1 / len(found.counts), "align": "edge", "ec": "white"}
    lower = np.minimum(right, sure)
    axes.bar(edges, lower, color=figures.RIGHT, label="accuracy", **bars)
    for name, gap, colour in (
        ("accuracy beyond the confidence", right - sure, figures.RIGHT_PALE),
        ("accuracy short of the confidence", sure - right, figures.WRONG_PALE),
    ):
        axes.bar(edges, np.maximum(gap, 0), bottom=lower, color=colour, label=name, **bars)
    axes.plot([0, 1], [0, 1], color="black", ls="--", lw=1.2, label="calibrated")
    axes.set(ylabel="accuracy", ylim=(0, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
