import math

import pytest
import torch
from torchvision.ops import box_iou

from natural_images.detection.boxes import clip, decode, encode, not_empty, pairwise_iou


def test_pairwise_iou_is_torchvisions_for_each_image():
    corners = torch.rand(3, 2, 7, 2, generator=torch.Generator().manual_seed(0)) * 50
    boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=-1)
    found = pairwise_iou(boxes[:, :4], boxes[:, 2:])
    expected = torch.stack([box_iou(each[:4], each[2:]) for each in boxes])
    torch.testing.assert_close(found, expected)


def test_pairwise_iou_of_empty_boxes_is_zero():
    assert pairwise_iou(torch.zeros(1, 2, 4), torch.zeros(1, 3, 4)).eq(0).all()


@pytest.mark.parametrize("std", [(1, 1), (0.1, 0.2), (0.05, 0.1), (0.033, 0.067)])
def test_encode_by_hand(std):
    box = torch.tensor([10.0, 20, 30, 60])  # middle 20, 40; sides 20, 40
    target = torch.tensor([12.0, 20, 52, 50])  # middle 32, 35; sides 40, 30
    expected = [12 / 20 / std[0], -5 / 40 / std[0], math.log(2) / std[1], math.log(0.75) / std[1]]
    deltas = encode(box, target, std)
    torch.testing.assert_close(deltas, torch.tensor(expected))
    torch.testing.assert_close(decode(box, deltas, std), target)


def test_encode_is_finite_for_empty_boxes():
    empty, box = torch.zeros(4), torch.tensor([0.0, 0, 8, 8])
    assert encode(empty, box).isfinite().all()
    assert encode(box, empty).isfinite().all()


def test_decode_lets_no_side_explode():
    box = torch.tensor([0.0, 0, 16, 16])
    x0, _, x1, _ = decode(box, torch.tensor([0.0, 0, 1e4, -1e4])).tolist()
    assert x1 - x0 == pytest.approx(1000)


def test_decode_of_bfloat16_deltas_is_float32():
    assert decode(torch.ones(1, 4), torch.zeros(1, 4, dtype=torch.bfloat16)).dtype == torch.float32


def test_clip_uses_each_images_size_and_removes_nan():
    boxes = torch.tensor([[-5.0, -5, 90, 90], [math.nan, 2, 10, math.inf]]).expand(2, 2, 4)
    clipped = clip(boxes, torch.tensor([[40.0, 60.0], [50.0, 30.0]]))
    expected = [[[0, 0, 60, 40], [0, 2, 10, 40]], [[0, 0, 30, 50], [0, 2, 10, 50]]]
    assert clipped.tolist() == expected


def test_not_empty():
    boxes = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 5], [3, 3, 2, 9]])
    assert not_empty(boxes).tolist() == [True, False, False]
