"""Numbers of a detector beyond its backbone."""

from dataclasses import dataclass, fields
from typing import Any

from natural_images.errors import NaturalImagesValueError


@dataclass(frozen=True)
class HeadSection:
    """Sizes of the pyramid and the heads; the defaults are the published COCO recipe.

    channels
        Of the pyramid's maps, and of the heads' convolutions.
    rpn_convs, box_convs, mask_convs
        3 × 3 convolutions before the predictions of each head.
    box_fc
        Width of the box heads' hidden layer.
    mask_norm
        LayerNorm in the mask heads too.
    rpn_samples, box_samples
        Anchors and, in each stage, RoIs of an image that are learned from.
    proposals_train, proposals_test
        RoIs that an image gets; up to as many from each map before overlapping ones are removed.
    score, nms, most
        Detections of an image: least score, largest overlap of two of one class, largest number.
    """

    channels: int = 256
    rpn_convs: int = 2
    box_convs: int = 4
    box_fc: int = 1024
    mask_convs: int = 4
    mask_norm: bool = True
    rpn_samples: int = 256
    box_samples: int = 512
    proposals_train: int = 2000
    proposals_test: int = 1000
    score: float = 0.05
    nms: float = 0.5
    most: int = 100

    def __post_init__(self) -> None:
        least = {"rpn_samples": 4, "box_samples": 4}
        for field in fields(self):
            key, value = field.name, getattr(self, field.name)
            if field.type is bool:
                self._check(key, isinstance(value, bool), "true or false")
            elif field.type is float:
                self._check(key, _is_number(value) and 0 <= value <= 1, "a number from 0 to 1")
            else:
                whole = isinstance(value, int) and not isinstance(value, bool)
                lowest = least.get(key, 1)
                self._check(key, whole and value >= lowest, f"a whole number from {lowest}")

    def _check(self, key: str, valid: bool, expected: str) -> None:
        if not valid:
            raise NaturalImagesValueError(
                f"heads key '{key}': expected {expected}, got {getattr(self, key)!r}"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
