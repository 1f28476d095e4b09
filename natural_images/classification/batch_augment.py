"""Augmentation as published, of whole batches on their device: erasing, mixing, soft targets."""

import torch
from timm.data import Mixup
from timm.data.mixup import mixup_target
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from natural_images.classification.augment import Augment, normalise, seeded
from natural_images.errors import NaturalImagesValueError


class BatchAugment:
    """Normalise a batch on its device, erase, mix, and make soft targets: `on_batch` of `fit`.

    The order is the published one. With random erasing, mixup, cutmix and label smoothing at 0 it
    normalises only, and targets are one-hot.
    """

    def __init__(self, augment: Augment, classes: int) -> None:
        self._augment, self._classes = augment, classes
        self._mixup: Mixup | None = None
        if augment.mixes:
            self._mixup = Mixup(
                mixup_alpha=augment.mixup,
                cutmix_alpha=augment.cutmix,
                switch_prob=augment.mixup_switch,
                label_smoothing=augment.label_smoothing,
                num_classes=classes,
            )

    def __call__(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Augment ``images`` (b, 3, h, w) uint8 and ``classes`` (b,) int64.

        All randomness comes from `generator`, which lives on the CPU; the generators of the
        process are as before when it returns.

        Returns
        -------
        ``images`` (b, 3, h, w) float32, ``targets`` (b, classes) float32 that sum to 1, and
        ``classes`` as they were.

        Raises
        ------
        NaturalImagesValueError
            An odd number of images is to be mixed, which works in pairs.
        """
        classes = batch["classes"]
        if self._mixup is not None and len(classes) % 2:
            raise NaturalImagesValueError(
                "Augment keys 'mixup' and 'cutmix': expected an even number of images in a batch "
                f"of a process, got {len(classes)}. Change batch_size or accumulation, or set both "
                "to 0"
            )
        images = normalise(batch["images"], self._augment)
        seed = int(torch.randint(2**32, (), generator=generator))
        with seeded(seed, images.device):
            if self._augment.erase_probability > 0:
                images = self._erasing(images.device)(images)
            if self._mixup is not None:
                images, targets = self._mixup(images, classes)
            else:
                smoothing = self._augment.label_smoothing
                targets = mixup_target(classes, self._classes, 1.0, smoothing)
        return {**batch, "images": images, "targets": targets}

    def _erasing(self, device: torch.device) -> RandomErasing:
        augment = self._augment
        return RandomErasing(augment.erase_probability, mode=augment.erase_mode, device=device)
