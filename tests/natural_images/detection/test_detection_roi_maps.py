import pytest
import torch
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper

from natural_images.detection.roi_maps import RoiMaps


def pyramid(height, width, channels=3):
    generator = torch.Generator().manual_seed(0)
    sides = [(-(-height // s), -(-width // s)) for s in (4, 8, 16, 32)]
    return [torch.randn(2, channels, *side, generator=generator) for side in sides]


def random_boxes(height, width, count=60):
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(2, count, 2, generator=generator)
    # Small ones too: sides go over four orders of two.
    corners[1] = corners[0] + (corners[1] - corners[0]) * torch.rand(count, 1, generator=generator)
    corners = corners * torch.tensor([width, height])
    return torch.cat([corners.amin(0), corners.amax(0)], dim=1)


@pytest.mark.parametrize("side", [7, 14])
@pytest.mark.parametrize(("height", "width"), [(512, 640), (900, 611)])
def test_pool_is_roi_align_on_the_map_of_each_box(height, width, side):
    maps, boxes = pyramid(height, width), random_boxes(height, width)
    edges = [[0, 0, width, height], [width - 9, height - 7, width, height], [0, 0, 3, 2]]
    boxes = torch.cat([boxes, torch.tensor(edges, dtype=torch.float32)])
    images = torch.arange(len(boxes)) % 2
    levels = LevelMapper(2, 5)([boxes]).tolist()
    assert set(levels) == {0, 1, 2, 3}
    expected = [
        roi_align(
            maps[level], torch.cat([image[None], box])[None], side, 1 / (4 * 2**level), aligned=True
        )
        for level, image, box in zip(levels, images, boxes, strict=True)
    ]
    roi_maps = RoiMaps(maps, 4)
    assert roi_maps.level(boxes).tolist() == levels
    found = roi_maps.pool(boxes, images, side)
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("side", "level"), [(10, 0), (111, 0), (113, 1), (223, 1), (225, 2), (447, 2), (449, 3)]
)
def test_level_follows_the_side(side, level):
    box = torch.tensor([[5.0, 5, 5 + side, 5 + side]])
    assert RoiMaps(pyramid(512, 512), 4).level(box).item() == level


def test_pool_of_no_boxes_and_of_empty_ones():
    maps = RoiMaps(pyramid(64, 64), 4)
    assert maps.pool(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 7).shape == (0, 3, 7, 7)
    empty = maps.pool(torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64), 7)
    assert empty.isfinite().all()
