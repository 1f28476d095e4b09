"""COCO's images as the training engine reads them: placed in a square, a batch at a time."""

from dataclasses import dataclass

import numpy as np
import torch
from faster_coco_eval.core import mask as mask_api
from torch import Tensor

from natural_images.detection.augment import AugmentSection, Placement, fill_colour, fit, jitter
from natural_images.detection.coco import CocoImages

PADDING = -1
"""Class of the rows that make the images of a batch have equally many instances."""
FEW = 4000
"""So many images are decoded in threads before worker processes would have started."""

Instances = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass
class TrainingSamples:
    """Images at `indices`, jittered, with their instances: a `fastvim.training.BatchDataset`."""

    images: CocoImages
    indices: np.ndarray
    augment: AugmentSection

    def __post_init__(self) -> None:
        self.in_processes = len(self.indices) > FEW

    def __len__(self) -> int:
        return len(self.indices)

    def get_batch(self, indices: np.ndarray, seed: int) -> dict[str, Tensor]:
        """Read samples `indices` (b,) int64; `seed` and the place in the batch decide the rest.

        Boxes are those of the masks that are left in the square; an instance of which nothing is
        left is dropped.

        Returns
        -------
        ``images`` (b, 3, size, size) uint8; ``boxes`` (b, n, 4) float32 x0, y0, x1, y1 in px of the
        square; ``classes`` (b, n) int64, -1 for padding, n being that of the image that has most
        and at least 1; ``masks`` (b, n, size, size / 8 rounded up) uint8, eight pixels of a row in
        a byte, the first the highest (`numpy.packbits`).
        """
        pixels, found = [], []
        for place, sample in enumerate(indices):
            image = int(self.indices[sample])
            random = np.random.default_rng([seed, place])
            placement = jitter(self.images.size(image), self.augment, random)
            read = self.images.read(image)
            pixels.append(torch.from_numpy(placement.pixels(read, fill_colour(self.augment))))
            found.append(placed_instances(self.images, image, placement))
        most = max(1, *(len(classes) for _, classes, _ in found))
        boxes, classes, masks = (
            torch.from_numpy(np.stack(column))
            for column in zip(*(_padded(instances, most) for instances in found), strict=True)
        )
        return {
            "images": torch.stack(pixels),
            "boxes": boxes,
            "classes": classes,
            "masks": masks,
        }


@dataclass
class EvaluationSamples:
    """Images at `indices` in order, each as large as fits the square: a `BatchDataset`."""

    images: CocoImages
    indices: np.ndarray
    augment: AugmentSection

    def __len__(self) -> int:
        return len(self.indices)

    def get_batch(self, indices: np.ndarray, seed: int) -> dict[str, Tensor]:
        """Read samples `indices` (b,) int64; nothing is random.

        Returns ``images`` (b, 3, size, size) uint8, ``sizes`` (b, 2) int64 rows and columns of the
        square that show the image, and ``samples`` (b,) int64.
        """
        del seed
        pixels, sizes = [], []
        for sample in indices:
            image = int(self.indices[sample])
            placement = fit(self.images.size(image), self.augment.size)
            read = self.images.read(image)
            pixels.append(torch.from_numpy(placement.pixels(read, fill_colour(self.augment))))
            sizes.append(placement.shown)
        return {
            "images": torch.stack(pixels),
            "sizes": torch.tensor(sizes, dtype=torch.int64),
            "samples": torch.from_numpy(np.asarray(indices, np.int64)),
        }


def placed_instances(images: CocoImages, index: int, placement: Placement) -> Instances:
    """What is left of an image's instances in a square.

    Returns boxes (n, 4) float32, classes (n,) int64 and masks (n, size, size / 8 rounded up) uint8,
    packed along x.
    """
    places = images.instances(index)
    outlines = [images.outlines.place(instance, placement) for instance in places]
    left = [place for place, runs in enumerate(outlines) if mask_api.area(runs) > 0]
    masks = np.zeros((len(left), placement.size, placement.size), np.uint8)
    boxes = np.zeros((len(left), 4), np.float32)
    if left:
        kept = [outlines[place] for place in left]
        rows, columns = placement.shown
        masks[:, :rows, :columns] = mask_api.decode(kept).transpose(2, 0, 1)
        boxes[:] = mask_api.toBbox(kept)
        boxes[:, 2:] += boxes[:, :2]
    labels = images.labels[places.start : places.stop][left]
    return boxes, labels, np.packbits(masks, axis=2)


def _padded(instances: Instances, most: int) -> Instances:
    boxes, classes, masks = instances
    rows = most - len(classes)
    return (
        np.pad(boxes, ((0, rows), (0, 0))),
        np.pad(classes, (0, rows), constant_values=PADDING),
        np.pad(masks, ((0, rows), (0, 0), (0, 0))),
    )
