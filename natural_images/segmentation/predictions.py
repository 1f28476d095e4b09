"""What a segmenter answers to photographs, one after the other."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastvim.training.prefetch import prefetch
from natural_images.classification.augment import Augment, normalise
from natural_images.dense_run import Precision
from natural_images.errors import NaturalImagesValueError
from natural_images.segmentation.ade20k import AnnotatedImages
from natural_images.segmentation.inference import TestSection, predict
from natural_images.segmentation.segmenter import Segmenter


@dataclass(frozen=True)
class Predictor:
    """A segmenter with what it takes to give it a photograph.

    mean, std
        Of red, green and blue, for pixels from 0 to 1.
    precision
        Of matrix products.
    """

    model: Segmenter
    mean: Sequence[float]
    std: Sequence[float]
    test: TestSection
    precision: Precision = "float32"

    @property
    def device(self) -> torch.device:
        """Where the model is, and so its answers."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def probabilities(self, image: np.ndarray) -> Tensor:
        """Probability of each class of each pixel, (class, h, w), of an image (h, w, 3) uint8."""
        pixels = torch.from_numpy(image.copy()).to(self.device).permute(2, 0, 1)
        colours = Augment(mean=_three(self.mean), std=_three(self.std))
        half = self.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            return predict(self.model, normalise(pixels, colours), self.test)


@dataclass(frozen=True)
class Prediction:
    """One annotated image and what was found: `image` (h, w, 3), the others (h, w), all uint8.

    labels
        255 where ignored; on the CPU, as the image.
    predicted
        On the model's device.
    """

    index: int
    image: np.ndarray
    labels: np.ndarray
    predicted: Tensor


def predictions(
    predictor: Predictor, source: AnnotatedImages, indices: np.ndarray, *, workers: int
) -> Iterator[Prediction]:
    """Segment the images at `indices`, in order; `workers` threads decode ahead."""
    items = prefetch(source.read, map(int, indices), workers=workers)
    with closing(items):
        for index, (image, labels) in zip(indices, items, strict=True):
            predicted = predictor.probabilities(image).argmax(dim=0).to(torch.uint8)
            yield Prediction(int(index), image, labels, predicted)


def changed(test: TestSection, **values: Any) -> TestSection:
    """`test` with those of `values` that are not None.

    Raises NaturalImagesValueError for a value that cannot be.
    """
    given = {key: value for key, value in values.items() if value is not None}
    try:
        return replace(test, **given)
    except (TypeError, ValueError) as error:
        raise NaturalImagesValueError(str(error)) from error


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue
