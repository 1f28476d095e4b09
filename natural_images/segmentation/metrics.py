"""Scores of a segmentation: intersection over union, and accuracies, of all pixels together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from natural_images.segmentation.ade20k import IGNORED


def confusion_matrix(labels: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Count pixels of each label (row) and prediction (column): (class, class) int64.

    `labels` and `predicted` have one shape and one device; pixels of the label 255 do not count.
    """
    counted = labels != IGNORED
    pairs = labels[counted].long() * classes + predicted[counted].long()
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix of all images says.

    miou
        Mean of the classes' intersection over union; a class that neither the labels nor the
        predictions have is left out.
    mean_accuracy
        Mean share of a class's pixels that are found; a class without labels is left out.
    pixel_accuracy
        Share of all labelled pixels that are right.
    per_class
        One row a class: ``class``, ``iou`` and ``accuracy`` (NaN where left out), ``precision``
        (NaN where never predicted), and pixels, ``labelled`` and ``predicted``.
    """

    miou: float
    mean_accuracy: float
    pixel_accuracy: float
    per_class: pd.DataFrame


def scores(confusion: Tensor, names: Sequence[str]) -> Scores:
    """Scores of a confusion matrix (class, class); NaN where no pixel has a label."""
    counts = confusion.cpu().numpy().astype(np.float64)
    right, labelled, predicted = np.diagonal(counts), counts.sum(axis=1), counts.sum(axis=0)
    iou = _share(right, labelled + predicted - right)
    accuracy = _share(right, labelled)
    return Scores(
        miou=_mean(iou),
        mean_accuracy=_mean(accuracy),
        pixel_accuracy=float(_share(right.sum(), labelled.sum())),
        per_class=pd.DataFrame(
            {
                "class": list(names),
                "iou": iou,
                "accuracy": accuracy,
                "precision": _share(right, predicted),
                "labelled": labelled.astype(np.int64),
                "predicted": predicted.astype(np.int64),
            }
        ),
    )


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``part / whole``, NaN where the whole is 0."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _mean(values: np.ndarray) -> float:
    """Mean of what is there; NaN where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
