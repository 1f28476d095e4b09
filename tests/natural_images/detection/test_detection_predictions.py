from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from natural_images.detection.augment import AugmentSection
from natural_images.detection.average_precision import scores
from natural_images.detection.coco import open_coco
from natural_images.detection.evaluate import check_objects, compare
from natural_images.detection.outlines import mask_api
from natural_images.detection.predictions import Finder, annotated
from natural_images.errors import NaturalImagesDataError

SIZE = 96


class Oracle(nn.Module):
    """Answers with the annotated objects, in the pixels of the square it is shown: two to one."""

    def __init__(self, images):
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))
        self.images, self.seen = images, 0

    def detect(self, pixels, sizes):
        assert sizes.tolist() == [[80, 96]] * len(pixels)
        assert pixels.is_floating_point()
        return [self._answer() for _ in pixels]

    def _answer(self):
        truth = annotated(self.images, self.seen)
        self.seen += 1
        count = len(truth)
        return SimpleNamespace(
            boxes=torch.tensor(truth.boxes, dtype=torch.float32).reshape(-1, 4) * 2,
            scores=torch.linspace(0.9, 0.4, count),
            classes=torch.tensor(truth.classes),
            masks=torch.ones(count, 28, 28),
        )


@pytest.fixture
def images(coco):
    return open_coco(coco)


def results(images):
    finder = Finder(Oracle(images), AugmentSection(size=SIZE))
    rows = []
    for index, found in finder.find_all(images, np.arange(6), workers=1):
        rows += found.as_results(int(images.ids[index]), images.category_ids)
    return rows


def test_what_is_found_is_in_pixels_of_the_photograph(images):
    rows = results(images)
    assert [row["image_id"] for row in rows] == [10, 10, 11, 13, 14, 15]
    assert rows[0]["bbox"] == [4, 6, 12, 12]
    assert rows[1]["category_id"] == 7
    assert rows[0]["score"] == pytest.approx(0.9)
    assert rows[0]["segmentation"]["size"] == [40, 48]
    mask = mask_api.decode(rows[0]["segmentation"])
    expected = np.zeros((40, 48))
    expected[6:18, 4:16] = 1
    assert np.array_equal(mask, expected)
    box, mask = compare(images, np.arange(6), rows)
    assert box.numbers["AP"] == mask.numbers["AP"] == pytest.approx(1)


def test_a_missed_image_counts_unless_it_is_left_out(images):
    rows = [row for row in results(images) if row["image_id"] != 13]
    box, _ = compare(images, np.arange(6), rows)
    assert box.numbers["AP"] < 1
    assert scores(images.annotations, rows, "bbox", images=[10, 11]).numbers["AP"] == 1
    with pytest.raises(NaturalImagesDataError, match="expected an object in 1 images"):
        check_objects(images, np.array([2]))
    check_objects(images, np.array([2, 3]))


def test_from_score(images):
    finder = Finder(Oracle(images), AugmentSection(size=SIZE))
    (_, found), *_ = finder.find_all(images, np.arange(1), workers=1)
    assert len(found) == 2
    assert len(found.from_score(0.5)) == 1
    assert found.from_score(0.5).scores.tolist() == pytest.approx([0.9])
