"""What segmenting and detecting share: their options, and which of many images they take."""

from typing import Literal, get_args

import numpy as np
import torch

from natural_images.errors import NaturalImagesValueError

Precision = Literal["float32", "bfloat16"]


def check_run(*, precision: str, workers: int = 1, limit: int | None = None) -> None:
    """Raise NaturalImagesValueError for an option that cannot be."""
    if precision not in get_args(Precision):
        raise NaturalImagesValueError(
            f"precision: expected one of {[*get_args(Precision)]}, got {precision!r}"
        )
    for key, value in (("workers", workers), ("limit", limit)):
        if value is not None and value < 1:
            raise NaturalImagesValueError(f"{key}: expected at least 1, got {value}")


def default_device(device: str | None) -> str:
    """`device`, or else "cuda" where there is one."""
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def spread(count: int, most: int | None) -> np.ndarray:
    """At most `most` of `count` places, evenly spread, ascending, (k,) int64; all without it."""
    if most is None or most >= count:
        return np.arange(count)
    return np.linspace(0, count - 1, most).astype(np.int64)
