"""Outlines of many instances, polygons or run lengths, packed in a few arrays."""

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as mask_api

from natural_images.detection.augment import Placement

Segmentation = list[list[float]] | Mapping[str, Any]
"""As COCO has it: polygons x, y, x, y, … in px, or run lengths (``size`` and ``counts``)."""

Runs = dict[str, Any]
"""Compressed run lengths of a mask: ``size`` (height, width) and ``counts`` as bytes."""

LEAST_NUMBERS = 6
"""A polygon of fewer than three points has no inside."""


@dataclass(frozen=True)
class Outlines:
    """Outlines of n instances; the million of COCO are 200 MB, and quick to send to a process.

    points
        (point, 2) float32 x, y of all polygons, one after the other.
    polygons
        (polygon + 1,) int64, where each polygon's points begin and end.
    instances
        (n + 1,) int64, where each instance's polygons begin and end; it may have several.
    runs
        Compressed run lengths by instance, for those that are given so and have no polygon.
    """

    points: np.ndarray
    polygons: np.ndarray
    instances: np.ndarray
    runs: Mapping[int, Runs]

    def __len__(self) -> int:
        return len(self.instances) - 1

    def place(self, instance: int, placement: Placement) -> Runs:
        """Mask of an instance in what `placement` shows of its image, as compressed run lengths.

        Polygons are moved before they are filled, so that an enlarged one keeps its straight edges.
        """
        rows, columns = placement.shown
        if instance in self.runs:
            placed = placement.mask(mask_api.decode(self.runs[instance]).astype(bool))
            return mask_api.encode(np.asfortranarray(placed.astype(np.uint8)))
        first, last = self.instances[instance : instance + 2]
        polygons = [
            placement.points(self.points[start:end]).ravel().tolist()
            for start, end in zip(
                self.polygons[first:last], self.polygons[first + 1 : last + 1], strict=True
            )
        ]
        return mask_api.merge(mask_api.frPyObjects(polygons, rows, columns))


def pack(segmentations: Iterable[Segmentation]) -> Outlines:
    """Pack the outlines of instances; polygons of fewer than three points are left out."""
    numbers, polygons, instances = array("f"), array("q", [0]), array("q", [0])
    runs: dict[int, Runs] = {}
    for instance, segmentation in enumerate(segmentations):
        if isinstance(segmentation, Mapping):
            runs[instance] = compressed(segmentation)
        else:
            for polygon in segmentation:
                if len(polygon) >= LEAST_NUMBERS:
                    numbers.extend(polygon)
                    polygons.append(len(numbers) // 2)
        instances.append(len(polygons) - 1)
    return Outlines(
        np.array(numbers, np.float32).reshape(-1, 2),
        np.array(polygons, np.int64),
        np.array(instances, np.int64),
        runs,
    )


def compressed(segmentation: Mapping[str, Any]) -> Runs:
    """Run lengths as the mask API takes them, from numbers, text or bytes.

    Raises ValueError where they are not as long as the mask they are of.
    """
    height, width = segmentation["size"]
    counts = segmentation["counts"]
    if isinstance(counts, str):
        counts = counts.encode()
    if isinstance(counts, bytes):
        return {"size": [height, width], "counts": counts}
    if sum(counts) != height * width or min(counts, default=0) < 0:
        raise ValueError(f"run lengths of {sum(counts)} px for {height} × {width}")
    return mask_api.frPyObjects({"size": [height, width], "counts": counts}, height, width)


def as_text(runs: Runs) -> dict[str, Any]:
    """Compressed run lengths as JSON holds them."""
    counts = runs["counts"]
    return {
        "size": [int(side) for side in runs["size"]],
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }
