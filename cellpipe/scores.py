"""What a prediction is worth: accuracy, recall by class, confusion."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def score(truth: np.ndarray, predicted: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """Compare predicted with true classes, both indices into `labels`.

    Returns
    -------
    dict
        ``n``; ``accuracy``; ``balanced_accuracy``, the mean recall over the classes that occur;
        ``majority``, the accuracy of always answering the most frequent class; ``chance``, the
        balanced accuracy of any answer that ignores the data; ``recall`` by class name, None where
        the class does not occur; ``confusion``, counts with true classes in rows. All but ``n`` are
        None where there is nothing to compare.
    """
    if len(truth) == 0:
        names = ("accuracy", "balanced_accuracy", "majority", "chance", "recall", "confusion")
        return {"n": 0, **dict.fromkeys(names)}
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (truth, predicted), 1)
    occurring = confusion.sum(axis=1)
    hits = np.diag(confusion)
    present = occurring > 0
    recall = hits[present] / occurring[present]
    by_name = dict.fromkeys(labels)
    by_name.update(zip(np.array(labels, object)[present], recall.tolist(), strict=True))
    return {
        "n": len(truth),
        "accuracy": float(hits.sum() / len(truth)),
        "balanced_accuracy": float(recall.mean()),
        "majority": float(occurring.max() / len(truth)),
        "chance": float(1 / present.sum()),
        "recall": by_name,
        "confusion": confusion.tolist(),
    }
