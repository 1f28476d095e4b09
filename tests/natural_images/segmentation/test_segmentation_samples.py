import numpy as np
import torch

from natural_images.segmentation.ade20k import open_ade20k
from natural_images.segmentation.augment import AugmentSection
from natural_images.segmentation.samples import SegmentationSamples

SECTION = AugmentSection(crop=32, scale=(160, 40))


def test_a_batch_follows_from_indices_and_seed(areas):
    samples = SegmentationSamples(open_ade20k(areas, split="training"), SECTION)
    assert len(samples) == 6
    batch = samples.get_batch(np.array([4, 1, 4]), 7)
    assert batch["images"].shape == (3, 3, 32, 32)
    assert batch["labels"].shape == (3, 32, 32)
    assert {tensor.dtype for tensor in batch.values()} == {torch.uint8}
    torch.rand(1)
    again = samples.get_batch(np.array([4, 1, 4]), 7)
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    # One image twice in a batch is cropped differently.
    assert not torch.equal(batch["images"][0], batch["images"][2])


def test_images_and_labels_belong_together(areas):
    plain = AugmentSection(crop=32, scale=(160, 40), photometric=False)
    samples = SegmentationSamples(open_ade20k(areas, split="training"), plain)
    batch = samples.get_batch(np.arange(6), 0)
    red = batch["images"][:, 0].float() - batch["images"][:, 1].float()
    assert red[batch["labels"] == 1].mean() > 60
    assert red[batch["labels"] == 2].mean() < -60
