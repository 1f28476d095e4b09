import math

import numpy as np
import pytest
import torch

from natural_images.detection.cascade import CascadeHead
from natural_images.detection.head_section import HeadSection
from natural_images.detection.matching import Truth
from natural_images.detection.region_proposals import Proposals
from natural_images.detection.roi_maps import RoiMaps
from natural_images.detection.stages import STAGES, draw_rois

SIDE, CLASSES = 64, 3
HEADS = HeadSection(channels=8, box_convs=1, mask_convs=1, box_fc=16, box_samples=40, most=5)

OBJECT = [10.0, 10, 30, 30]
TALL, LOW, FAR = [10.0, 10, 30, 26], [10.0, 10, 30, 21], [40.0, 40, 60, 60]
"""Overlaps of 0.8, 0.55 and 0 with the object."""


def head(heads=HEADS):
    """A cascade that predicts the same, whatever it sees: all logits 0 and boxes as they are."""
    torch.manual_seed(0)
    built = CascadeHead(CLASSES, heads)
    for box, mask in zip(built.bbox_head, built.mask_head, strict=True):
        for layer in (box.fc_cls, box.fc_reg, mask.conv_logits):
            torch.nn.init.zeros_(layer.weight)
    return built


def roi_maps(batch=1):
    generator = torch.Generator().manual_seed(0)
    sides = [SIDE // stride for stride in (4, 8, 16, 32)]
    return RoiMaps([torch.randn(batch, 8, s, s, generator=generator) for s in sides], 4)


def truth(boxes, classes):
    masks = np.zeros((len(boxes), len(boxes[0]), SIDE, SIDE), bool)
    for image, row in zip(masks, boxes, strict=True):
        for mask, box in zip(image, row, strict=True):
            x0, y0, x1, y1 = map(int, box)
            mask[y0:y1, x0:x1] = True
    packed = torch.from_numpy(np.packbits(masks, axis=-1))
    return Truth(torch.tensor(boxes), torch.tensor(classes), packed, SIDE)


def proposals(*boxes):
    return Proposals(torch.tensor([boxes]), torch.ones(1, len(boxes), dtype=torch.bool))


def losses(built, found, objects, batch=1):
    sizes = torch.full((batch, 2), float(SIDE))
    return built.losses(roi_maps(batch), found, objects, sizes)


@pytest.mark.parametrize(("number", "positive"), [(0, "TLO"), (1, "TO"), (2, "TO")])
def test_draw_rois_at_the_overlap_of_each_stage(number, positive):
    rois = draw_rois(proposals(TALL, LOW, FAR), truth([[OBJECT]], [[1]]), STAGES[number], 40)
    names = {tuple(TALL): "T", tuple(LOW): "L", tuple(FAR): "F", tuple(OBJECT): "O"}
    drawn = {names[tuple(box)]: i for i, box in enumerate(rois.boxes[0].tolist())}
    assert set(drawn) == set("TLFO")
    assert {name for name, i in drawn.items() if rois.positive[0, i]} == set(positive)
    assert {name for name, i in drawn.items() if rois.added[0, i]} == {"O"}
    assert rois.valid.all()


def test_draw_rois_leaves_out_what_there_is_not():
    found = Proposals(torch.tensor([[TALL, FAR]]), torch.tensor([[False, True]]))
    rois = draw_rois(found, truth([[OBJECT, [0.0] * 4]], [[1, -1]]), STAGES[0], 40)
    drawn = rois.boxes[0][rois.valid[0]].tolist()
    assert sorted(drawn) == [OBJECT, FAR]


def test_losses_by_hand():
    found = losses(head(), proposals(TALL, LOW, FAR), truth([[OBJECT]], [[1]]))
    for number, (weight, offset_std, factor_std) in enumerate(
        [(1, 0.1, 0.2), (0.5, 0.05, 0.1), (0.25, 0.033, 0.067)], start=1
    ):
        assert found[f"stage{number}_class"].item() == pytest.approx(
            weight * math.log(CLASSES + 1), rel=1e-5
        )
        assert found[f"stage{number}_mask"].item() == pytest.approx(weight * math.log(2), rel=1e-5)
        # Middles 2 px and 4.5 px too high, heights 16 and 11 instead of 20; of four RoIs.
        targets = [2 / 16 / offset_std, math.log(20 / 16) / factor_std]
        if number == 1:
            targets += [4.5 / 11 / offset_std, math.log(20 / 11) / factor_std]
        total = sum(each**2 / 2 if each < 1 else each - 0.5 for each in targets)
        assert found[f"stage{number}_box"].item() == pytest.approx(weight * total / 4, rel=1e-4)


def test_losses_of_each_stage_are_of_the_boxes_that_the_one_before_moved():
    built = head()
    with torch.no_grad():  # 1.25 · 0.1 · 16 px down and ln(20 / 16) taller
        built.bbox_head[0].fc_reg.bias.copy_(
            torch.tensor([0, 2 / 16 / 0.1, 0, math.log(20 / 16) / 0.2])
        )
    found = losses(built, proposals(TALL), truth([[OBJECT]], [[1]]))
    # The proposal now fits, and the object's own box is back as it is, in place of the moved one.
    assert found["stage2_box"].item() == pytest.approx(0, abs=1e-5)
    assert found["stage3_box"].item() == pytest.approx(0, abs=1e-5)
    own = [2 / 16 / 0.1 - 0.5, (math.log(20 / 16) / 0.2) - 0.5]
    assert found["stage1_box"].item() == pytest.approx(sum(own) / 2, rel=1e-4)


def test_class_loss_is_of_the_objects_class_and_of_background():
    built = head()
    for each in built.bbox_head:
        with torch.no_grad():
            each.fc_cls.bias.copy_(torch.tensor([0.0, 20, 0, 10]))
    found = losses(built, proposals(FAR), truth([[OBJECT]], [[1]]))
    # The object's box costs nothing, the other one 20 − 10.
    assert found["stage1_class"].item() == pytest.approx(10 / 2, rel=1e-3)


def test_mask_loss_is_of_the_objects_class():
    built = head()
    for each in built.mask_head:
        with torch.no_grad():
            each.conv_logits.bias.copy_(torch.tensor([-20.0, 20, -20]))
    right = losses(built, proposals(FAR), truth([[OBJECT]], [[1]]))
    wrong = losses(built, proposals(FAR), truth([[OBJECT]], [[2]]))
    assert right["stage1_mask"].item() < 1e-6
    assert wrong["stage1_mask"].item() == pytest.approx(20, rel=1e-3)
    assert wrong["stage3_mask"].item() == pytest.approx(5, rel=1e-3)


def test_losses_of_two_images_one_without_objects():
    found = Proposals(torch.tensor([[TALL, FAR]] * 2), torch.ones(2, 2, dtype=torch.bool))
    objects = truth([[OBJECT], [[0.0] * 4]], [[1], [-1]])
    built = head()
    parts = losses(built, found, objects, batch=2)
    assert all(value.isfinite() for value in parts.values())
    # Two positive RoIs of five in all, the object's own and one whose box is 16 px high.
    targets = [2 / 16 / 0.1, math.log(20 / 16) / 0.2]
    assert parts["stage1_box"].item() == pytest.approx(sum(t - 0.5 for t in targets) / 5, rel=1e-4)


def test_losses_without_objects_and_proposals_are_zero_with_gradients():
    found = Proposals(torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.bool))
    built = head()
    parts = losses(built, found, truth([[[0.0] * 4]], [[-1]]))
    assert all(value.item() == 0 for value in parts.values())
    sum(parts.values()).backward()
    assert all(p.grad is not None and p.grad.eq(0).all() for p in built.parameters())


def detect(built, found, size=(SIDE, SIDE)):
    return built.eval().detect(roi_maps(len(found.boxes)), found, torch.tensor([size]).float())


def test_detect_averages_the_logits_of_all_stages():
    built = head()
    for each, logit in zip(built.bbox_head, (0.5, 0, 2.5), strict=True):
        with torch.no_grad():
            each.fc_cls.bias[2] = logit
    (found,) = detect(built, proposals(FAR))
    expected = torch.tensor([0, 0, 1.0, 0]).softmax(0)[[2, 0, 1]]
    torch.testing.assert_close(found.scores, expected)
    assert found.classes[0] == 2
    assert found.boxes.tolist() == [FAR] * 3


def test_detect_moves_boxes_by_the_deviations_of_each_stage_and_clips():
    built = head()
    with torch.no_grad():
        for each in built.bbox_head:
            each.fc_reg.bias[0] = 1
    (found,) = detect(built, proposals([10.0, 10, 30, 30]), size=(SIDE, 32))
    # Cut at 32 px by the first two stages, and so narrower in the next.
    first = 10 + 20 * 0.1
    second = first + (32 - first) * 0.05
    third = second + (32 - second) * 0.033
    expected = [third, 10, 32, 30]
    torch.testing.assert_close(found.boxes[0], torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_detect_leaves_out_covered_doubtful_and_absent_boxes():
    built = head(HeadSection(**{**vars(HEADS), "score": 0.3}))
    with torch.no_grad():
        for each in built.bbox_head:
            each.fc_cls.bias[1] = 2
    boxes = torch.tensor([[OBJECT, TALL, FAR, [0.0, 0, 9, 9]]])
    found = Proposals(boxes, torch.tensor([[True, True, True, False]]))
    (detections,) = detect(built, found)
    assert detections.classes.tolist() == [1, 1]
    kept = sorted(detections.boxes.tolist())
    assert kept in ([OBJECT, FAR], [TALL, FAR])
    assert detections.masks.shape == (2, 28, 28)
    assert detections.masks.eq(0.5).all()


def test_detect_keeps_the_best_ones():
    boxes = [[12.0 * i, 0, 12.0 * i + 9, 9] for i in range(5)]
    (found,) = detect(head(), proposals(*boxes))
    assert len(found.boxes) == HEADS.most


def test_detect_of_nothing():
    found = Proposals(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool))
    sizes = torch.full((2, 2), float(SIDE))
    for each in head().eval().detect(roi_maps(2), found, sizes):
        assert each.boxes.shape == (0, 4)
        assert each.scores.shape == each.classes.shape == (0,)
        assert each.masks.shape == (0, 28, 28)


def test_masks_are_of_each_boxs_image():
    built = head()
    torch.manual_seed(0)
    for each in built.mask_head:
        torch.nn.init.normal_(each.conv_logits.weight)
    found = Proposals(torch.tensor([[OBJECT], [FAR]]), torch.ones(2, 1, dtype=torch.bool))
    maps, sizes = roi_maps(2), torch.full((2, 2), float(SIDE))
    both = built.eval().detect(maps, found, sizes)
    features = maps.pool(torch.tensor([FAR]), torch.tensor([1]), 14)
    first = both[1].classes[:1]
    expected = sum(each(features, first).sigmoid() for each in built.mask_head) / 3
    torch.testing.assert_close(both[1].masks[:1], expected)
    assert not both[0].masks[0].allclose(both[1].masks[0], atol=1e-3)
