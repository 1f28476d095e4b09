import numpy as np
import pytest
import torch

from natural_images.detection.augment import AugmentSection, Placement
from natural_images.detection.coco import open_coco
from natural_images.detection.samples import (
    PADDING,
    EvaluationSamples,
    TrainingSamples,
    placed_instances,
)


@pytest.fixture
def images(coco):
    return open_coco(coco)


def test_a_batch_is_a_function_of_its_seed(images):
    samples = TrainingSamples(images, images.with_instances(), AugmentSection(size=60))
    first, again = (samples.get_batch(np.array([0, 1, 2]), seed=4) for _ in range(2))
    other = samples.get_batch(np.array([0, 1, 2]), seed=5)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["images"], other["images"])
    count = first["boxes"].shape[1]
    assert first["images"].shape == (3, 3, 60, 60)
    assert first["masks"].shape == (3, count, 60, 8)
    assert (first["images"].dtype, first["masks"].dtype) == (torch.uint8, torch.uint8)
    assert (first["boxes"].dtype, first["classes"].dtype) == (torch.float32, torch.int64)


def test_boxes_are_those_of_the_masks_and_of_what_is_bright(images):
    augment = AugmentSection(size=64, scale=(1.0, 2.0))
    samples = TrainingSamples(images, images.with_instances(), augment)
    checked = 0
    for seed in range(10):
        batch = samples.get_batch(np.arange(5), seed)
        masks = np.unpackbits(batch["masks"].numpy(), axis=3, count=64)
        for image, instance in zip(*np.nonzero(batch["classes"].numpy() >= 0), strict=True):
            rows, columns = np.nonzero(masks[image, instance])
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert batch["boxes"][image, instance].tolist() == box
            assert len(rows) > 0
        # image 3 alone has nothing but its cross, in the channel 7 % 3
        seen = batch["images"][2, 1].numpy() > 150
        if seen.sum() > 50:
            both = (seen & (masks[2, 0] > 0)).sum() / (seen | (masks[2, 0] > 0)).sum()
            assert both > 0.8
            checked += 1
    assert checked > 5


def test_what_is_cut_away_is_dropped_and_rows_are_padded(images):
    # The left upper square of image 0 lies above what is shown here, the other is cut.
    placement = Placement(image=(40, 48), resized=(40, 48), size=24, corner=(24, 12))
    boxes, classes, masks = placed_instances(images, 0, placement)
    assert classes.tolist() == [1]
    assert boxes.tolist() == [[0, 0, 8, 6]]
    assert np.unpackbits(masks, axis=2, count=24).sum() == 48

    batch = TrainingSamples(images, np.array([0, 2]), AugmentSection(64, (1, 1), 0)).get_batch(
        np.array([0, 1]), 0
    )
    assert batch["classes"].tolist() == [[0, 1], [PADDING, PADDING]]
    assert batch["boxes"][1].abs().sum() == 0
    empty = TrainingSamples(images, np.array([2]), AugmentSection(64)).get_batch(np.array([0]), 0)
    assert empty["classes"].tolist() == [[PADDING]]


def test_evaluation_keeps_every_image_whole(images):
    samples = EvaluationSamples(images, np.arange(6), AugmentSection(size=96))
    batch = samples.get_batch(np.array([2, 0]), 0)
    assert batch["sizes"].tolist() == [[80, 96], [80, 96]]
    assert batch["samples"].tolist() == [2, 0]
    padding = batch["images"][0, :, 85]
    assert torch.equal(padding[:, 0], torch.tensor([124, 116, 104], dtype=torch.uint8))
