"""COCO's average precision and recall (Lin et al. 2014), by faster-coco-eval."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from natural_images.detection.annotation_file import is_crowd
from natural_images.errors import NaturalImagesDataError

log = logging.getLogger(__name__)

Kind = Literal["bbox", "segm"]

NAMES = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
"""AP over IoU 0.50, 0.55 … 0.95; at 0.50; at 0.75; of small, medium and large objects (area below
32², below 96² px, above). AR with one, ten and a hundred detections an image; by size."""


@dataclass(frozen=True)
class Scores:
    """The twelve numbers by name, and AP by category id; None where there is no such object."""

    numbers: dict[str, float | None]
    by_category: dict[int, float | None]


def average_precision(
    ground_truth: Path | Mapping[str, Any],
    results: Path | Sequence[Mapping[str, Any]],
    kind: Kind,
) -> dict[str, float | None]:
    """The twelve numbers of `scores` by name."""
    return scores(ground_truth, results, kind).numbers


def scores(
    ground_truth: Path | Mapping[str, Any],
    results: Path | Sequence[Mapping[str, Any]],
    kind: Kind,
    *,
    images: Sequence[int] | None = None,
) -> Scores:
    """Compare detections with the truth.

    Parameters
    ----------
    ground_truth
        COCO's instances; groups (``iscrowd``) neither help nor harm.
    results
        As COCO wants them: ``image_id``, ``category_id``, ``score`` and ``bbox`` or
        ``segmentation`` (compressed run lengths).
    kind
        "bbox" compares boxes, "segm" masks. An object's size is the area of its mask, a detection's
        that of what is compared.
    images
        Ids of the images that count; all by default.

    Raises
    ------
    NaturalImagesDataError
        An annotation has no area, or a detection is of an unknown image.
    """
    truth = COCO(_truth(ground_truth))
    rows = json.loads(results.read_text()) if isinstance(results, Path) else results
    unknown = {row["image_id"] for row in rows} - set(truth.getImgIds())
    if unknown:
        raise NaturalImagesDataError(
            f"results: expected detections on images of the ground truth, got {len(unknown)} other "
            f"images, {sorted(unknown)[:3]} say. Compare them with their own"
        )
    # Masks without their boxes, whose area would stand for the masks'.
    left_out = "bbox" if kind == "segm" else "segmentation"
    found = truth.loadRes([{k: v for k, v in row.items() if k != left_out} for row in rows])
    evaluation = COCOeval_faster(truth, found, iouType=kind, print_function=log.debug)
    if images is not None:
        evaluation.params.imgIds = sorted(int(image) for image in images)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    # IoU, recall, category, size, detections: -1 where there is no object
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return Scores(
        dict(zip(NAMES, map(_number, evaluation.stats[: len(NAMES)]), strict=True)),
        {
            int(category): _number(values[values > -1].mean()) if (values > -1).any() else None
            for category, values in zip(
                evaluation.params.catIds, np.moveaxis(precision, 2, 0), strict=True
            )
        },
    )


def _truth(ground_truth: Path | Mapping[str, Any]) -> dict[str, Any]:
    """The truth as a new dictionary, each annotation with what the comparison needs."""
    read = ground_truth if isinstance(ground_truth, Mapping) else None
    content: Mapping[str, Any] = read or json.loads(Path(str(ground_truth)).read_bytes())
    annotations = [
        # Numbered anew: matches are noted by these ids, of which 0 means none.
        {**annotation, "iscrowd": int(is_crowd(annotation)), "id": place}
        for place, annotation in enumerate(content["annotations"], start=1)
    ]
    for annotation in content["annotations"]:
        if "area" not in annotation:
            raise NaturalImagesDataError(
                f"{'the ground truth' if read else ground_truth}: annotation {annotation['id']}: "
                "expected its area in px, got none. Add the areas of the masks"
            )
    return {**content, "annotations": annotations}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) and value >= 0 else None
