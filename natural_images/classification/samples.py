"""Images of a source as the training engine reads them: decoded, augmented, a batch at a time."""

import logging
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from natural_images.classification.augment import Transform
from natural_images.classification.images import BadImage, ImageSource
from natural_images.classification.quarantine import RunQuarantine
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError

log = logging.getLogger(__name__)

TOLERATED = 0.01
"""Share of bad images above which a run stops."""
IMAGES_BEFORE_JUDGING = 1000
"""Different images that a process has read before it judges their share, or all of them.

Each worker process judges for itself, and of many none sees a large part of the images.
"""
BAD_BEFORE_JUDGING = 10
"""Bad images that a process has met before, or all of them: one in a tiny set stops nothing."""


@dataclass
class ImageSamples:
    """The images of `source` at `indices`, transformed: a `fastvim.training.BatchDataset`.

    An image that cannot be decoded is replaced by another one, the same in every run of the same
    seeds, or left out, and reported once; when more than one in a hundred images that a process has
    read are such, the run stops. `natural_images.classification.quarantine` finds them beforehand.

    source
        Where the images come from.
    indices
        (n,) int64, those of its images that are samples; sample i is image ``indices[i]``.
    transform
        From `train_transform` or `eval_transform`.
    in_processes
        Whether the engine reads in worker processes. A random transform needs it: timm and
        torchvision draw from the generators of the process, which threads would share with the
        model.
    replaces_bad
        Whether another image takes the place of a bad one, for training, whose batches are whole;
        else it is left out, for validation, which counts nothing but its own images.
    quarantine
        Table that bad images are added to; without, each process reports them for itself.
    """

    source: ImageSource
    indices: np.ndarray
    transform: Transform
    in_processes: bool = True
    replaces_bad: bool = True
    quarantine: RunQuarantine | None = None
    _read: np.ndarray = field(init=False, repr=False)
    _bad: set[int] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        self.indices = np.asarray(self.indices, dtype=np.int64)
        self._read = np.zeros(len(self.indices), dtype=bool)
        if self.transform.random and not self.in_processes:
            raise NaturalImagesValueError(
                "ImageSamples: expected in_processes=True with a random transform, got False. "
                "Its random choices would not be reproducible in threads"
            )

    def __len__(self) -> int:
        return len(self.indices)

    def get_batch(self, indices: np.ndarray, seed: int) -> dict[str, Tensor]:
        """Read samples `indices` (b,) int64; `seed` and the place in the batch decide the rest.

        Returns
        -------
        ``images`` (b, 3, size, size) uint8 and ``classes`` (b,) int64. Where bad images are left
        out they are fewer, and ``images`` is (0, 3, 0, 0) where none is left.

        Raises
        ------
        NaturalImagesDataError
            More than one in a hundred images are bad.
        """
        read = (self._sample(int(i), seed, place) for place, i in enumerate(indices))
        samples = [sample for sample in read if sample is not None]
        images = [image for image, _ in samples]
        none = torch.empty(0, 3, 0, 0, dtype=torch.uint8)
        return {
            # In a worker it stacks where the engine's process sees it, which saves a copy.
            "images": default_collate(images) if images else none,
            "classes": torch.tensor([label for _, label in samples], dtype=torch.int64),
        }

    def _sample(self, sample: int, seed: int, place: int) -> tuple[Tensor, int] | None:
        choices = np.random.default_rng([seed, place])
        transform_seed = int(choices.integers(2**32))
        while True:
            index = int(self.indices[sample])
            self._read[sample] = True
            try:
                image = self.source.read(index)
            except BadImage as bad:
                self._count(index, bad.reason)
                if not self.replaces_bad:
                    return None
                sample = int(choices.integers(len(self)))
            else:
                return self.transform(image, transform_seed), int(self.source.labels[index])

    def _count(self, index: int, reason: str) -> None:
        name = self.source.name(index)
        if index not in self._bad:
            self._bad.add(index)
            if self.quarantine is None or self.quarantine.add(name, reason):
                fate = "Another image takes its place" if self.replaces_bad else "It is left out"
                log.warning("%s: %s. %s", name, reason, fate)
        check_share(
            len(self._bad), int(np.count_nonzero(self._read)), len(self), f"{name}: {reason}"
        )


def check_share(bad: int, read: int, samples: int, found: str) -> None:
    """Raise NaturalImagesDataError where too many of the images `read` so far are `bad`.

    `samples` is how many there are to read; `found`, a file and what is wrong, begins the message.
    """
    judged = read >= min(IMAGES_BEFORE_JUDGING, samples) and bad >= min(BAD_BEFORE_JUDGING, samples)
    if judged and bad > TOLERATED * read:
        raise NaturalImagesDataError(
            f"{found}. Expected at most {TOLERATED:.0%} of the images to be bad, got {bad} of the "
            f"{read} that were read. Leave them out with `natural-images check`, and look at the "
            "disk and at the download"
        )
