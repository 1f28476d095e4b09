"""Annotated images as the training engine reads them: decoded, augmented, a batch at a time."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from natural_images.segmentation.ade20k import AnnotatedImages
from natural_images.segmentation.augment import AugmentSection, augment


@dataclass(frozen=True)
class SegmentationSamples:
    """Random crops of annotated images: a `fastvim.training.BatchDataset`.

    in_processes
        Whether the engine reads in worker processes: worth their start for many images. Random
        choices follow from the seeds in threads as well.
    """

    source: AnnotatedImages
    section: AugmentSection
    in_processes: bool = True

    def __len__(self) -> int:
        return len(self.source)

    def get_batch(self, indices: np.ndarray, seed: int) -> dict[str, Tensor]:
        """Read samples `indices` (b,) int64; `seed` and the place in the batch decide the rest.

        Returns
        -------
        ``images`` (b, 3, crop, crop) and ``labels`` (b, crop, crop), both uint8; 255 is ignored.

        Raises
        ------
        NaturalImagesDataError
            A file cannot be read. `check_annotations` finds such files beforehand.
        """
        crops = [
            augment(*self.source.read(int(index)), self.section, [seed, place])
            for place, index in enumerate(indices)
        ]
        images = np.stack([image for image, _ in crops])
        return {
            "images": torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
            "labels": torch.from_numpy(np.stack([labels for _, labels in crops])),
        }
