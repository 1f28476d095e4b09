"""What a detector finds in photographs, in the photographs' own pixels."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastvim.training.reading import read_ahead
from natural_images.classification.augment import Augment, normalise
from natural_images.dense_run import Precision
from natural_images.detection.augment import AugmentSection, Placement, fit
from natural_images.detection.coco import CocoImages
from natural_images.detection.detector import Detections, Detector, paste_masks
from natural_images.detection.outlines import Runs, as_text, mask_api
from natural_images.detection.samples import EvaluationSamples

AT_ONCE = 4
"""Images that the model sees at a time."""
PIXELS_AT_ONCE = 2**26
"""Of masks, which take a byte each until they are run lengths."""


@dataclass(frozen=True)
class Instances:
    """Objects in a photograph, found or annotated.

    boxes
        (n, 4) float64 x0, y0, x1, y1 in px of the photograph.
    classes
        (n,) int64.
    masks
        Compressed run lengths of each, of the photograph's size.
    scores
        (n,) float64, the largest first; None for what is annotated.
    """

    boxes: np.ndarray
    classes: np.ndarray
    masks: list[Runs]
    scores: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.classes)

    def from_score(self, least: float) -> "Instances":
        """Those that were found with a score of at least `least`."""
        assert self.scores is not None
        count = int((self.scores >= least).sum())
        return Instances(
            self.boxes[:count], self.classes[:count], self.masks[:count], self.scores[:count]
        )

    def as_results(self, image: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """Records as COCO wants results: hundredths of px, x, y, width and height."""
        assert self.scores is not None
        return [
            {
                "image_id": image,
                "category_id": category_ids[label],
                "bbox": [round(float(v), 2) for v in (x0, y0, x1 - x0, y1 - y0)],
                "score": round(float(score), 5),
                "segmentation": as_text(mask),
            }
            for (x0, y0, x1, y1), label, score, mask in zip(
                self.boxes, self.classes, self.scores, self.masks, strict=True
            )
        ]


@dataclass(frozen=True)
class Finder:
    """A detector with what it takes to give it photographs.

    augment
        Its size, mean and deviation count.
    precision
        Of matrix products.
    """

    model: Detector
    augment: AugmentSection
    precision: Precision = "float32"

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def find(self, pixels: Tensor, placements: Sequence[Placement]) -> list[Instances]:
        """Objects in photographs that lie in squares (b, 3, size, size) uint8, as placed there."""
        colours = Augment(mean=self.augment.mean, std=self.augment.std)
        images = normalise(pixels.to(self.device, non_blocking=True), colours)
        sizes = torch.tensor([placement.shown for placement in placements])
        half = self.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            found = self.model.detect(images, sizes)
        return [_instances(*pair) for pair in zip(found, placements, strict=True)]

    def find_all(
        self, images: CocoImages, indices: np.ndarray, *, workers: int
    ) -> Iterator[tuple[int, Instances]]:
        """Find the objects in images at `indices`, in order; `workers` threads decode ahead.

        Yields the index of each image and what was found.
        """
        samples = EvaluationSamples(images, indices, self.augment)
        starts = range(0, len(samples), AT_ONCE)
        items = [(np.arange(start, min(start + AT_ONCE, len(samples))), 0) for start in starts]
        batches = read_ahead(samples, items, workers=workers, pin=self.device.type == "cuda")
        with closing(batches):
            for batch in batches:
                chosen = [int(indices[sample]) for sample in batch["samples"].tolist()]
                placements = [fit(images.size(index), self.augment.size) for index in chosen]
                yield from zip(chosen, self.find(batch["images"], placements), strict=True)


def annotated(images: CocoImages, index: int) -> Instances:
    """The objects of an image that are annotated, without groups."""
    size = images.size(index)
    places = images.instances(index)
    masks = [images.outlines.place(place, fit(size, max(size))) for place in places]
    boxes = np.array([mask_api.toBbox(mask) for mask in masks], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Instances(boxes, images.labels[places.start : places.stop], masks)


def _instances(found: Detections, placement: Placement) -> Instances:
    boxes = placement.boxes_of_image(found.boxes.cpu().numpy())
    return Instances(
        boxes=boxes,
        classes=found.classes.cpu().numpy(),
        masks=_run_lengths(found, torch.from_numpy(boxes), placement.image),
        scores=found.scores.double().cpu().numpy(),
    )


def _run_lengths(found: Detections, boxes: Tensor, size: tuple[int, int]) -> list[Runs]:
    """Masks of an image of some size (height, width), of which some are unpacked at a time."""
    boxes = boxes.to(found.masks.device, torch.float32)
    at_once = max(1, PIXELS_AT_ONCE // (size[0] * size[1]))
    runs: list[Runs] = []
    for start in range(0, len(boxes), at_once):
        part = slice(start, start + at_once)
        masks = paste_masks(found.masks[part], boxes[part], size)
        # Run lengths go down the columns: (n, x, y) in memory is what the encoder calls (y, x, n).
        columns = masks.transpose(1, 2).to(torch.uint8).contiguous().cpu().numpy()
        runs += mask_api.encode(columns.transpose(2, 1, 0))
    return runs
