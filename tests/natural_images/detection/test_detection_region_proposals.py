import math

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from natural_images.detection.matching import Truth
from natural_images.detection.region_proposals import Predictions, RegionProposalHead

STRIDES = (4, 8)


def maps(batch=2, channels=8):
    return [torch.randn(batch, channels, 16, 12), torch.randn(batch, channels, 8, 6)]


def truth(boxes, classes):
    return Truth(torch.tensor(boxes), torch.tensor(classes), torch.zeros(0, dtype=torch.uint8), 48)


def test_anchors_are_torchvisions_up_to_rounding():
    predicted = RegionProposalHead(8, 1, STRIDES)(maps())
    reference = AnchorGenerator(((32,), (64,)), ((0.5, 1.0, 2.0),) * 2)
    image = torch.zeros(1, 3, 64, 48)
    expected = reference(ImageList(image, [(64, 48)]), maps(1))[0]
    anchors = torch.cat(predicted.anchors)
    assert anchors.shape == (3 * (16 * 12 + 8 * 6), 4)
    assert (anchors - expected).abs().max() < 0.51  # torchvision rounds to whole pixels


def test_anchors_by_hand():
    first = RegionProposalHead(8, 1, STRIDES)(maps()).anchors[0]
    half, wide = 16 / math.sqrt(2), 16 * math.sqrt(2)
    torch.testing.assert_close(first[0], torch.tensor([-wide, -half, wide, half]))
    torch.testing.assert_close(first[1], torch.tensor([-16.0, -16, 16, 16]))
    torch.testing.assert_close(first[5], torch.tensor([4 - half, -wide, 4 + half, wide]))
    torch.testing.assert_close(first[3 * 12 + 1], torch.tensor([-16.0, -12, 16, 20]))


def test_predictions_are_in_the_anchors_order():
    head = RegionProposalHead(8, 1, STRIDES)
    with torch.no_grad():
        head.rpn_cls.bias.copy_(torch.tensor([1.0, 2, 3]))
        head.rpn_reg.bias.copy_(torch.arange(12.0))
        head.rpn_cls.weight.zero_()
        head.rpn_reg.weight.zero_()
    predicted = head(maps())
    assert predicted.logits[0].unflatten(1, (16, 12, 3))[1, 5, 7].tolist() == [1, 2, 3]
    deltas = predicted.deltas[1].unflatten(1, (8, 6, 3))[0, 7, 5]
    assert deltas.tolist() == torch.arange(12.0).view(3, 4).tolist()


@pytest.mark.parametrize("bias", [0.0, -2.0])
def test_losses_by_hand(bias):
    """Constant predictions, so that it does not matter which anchors are drawn."""
    torch.manual_seed(0)
    head = RegionProposalHead(8, 1, STRIDES)
    torch.nn.init.zeros_(head.rpn_cls.weight)
    torch.nn.init.zeros_(head.rpn_reg.weight)
    torch.nn.init.constant_(head.rpn_cls.bias, bias)
    boxes = [[[2.0, 3, 30, 33], [20, 10, 47, 25]], [[0, 0, 0, 0], [0, 0, 0, 0]]]
    predicted = head(maps())
    anchors = torch.cat(predicted.anchors)
    class_loss, box_loss = head.losses(predicted, truth(boxes, [[0, 4], [-1, -1]]), samples=100)

    iou = box_iou(torch.tensor(boxes[0]), anchors)
    overlap, index = iou.max(0)
    positive = (overlap >= 0.7) | ((iou == iou.amax(1, keepdim=True)) & (iou >= 0.3)).any(0)
    count = int(positive.sum())
    assert 2 <= count <= 50
    softplus = math.log1p(math.exp(bias))
    assert class_loss.item() == pytest.approx(
        (count * (softplus - bias) + (200 - count) * softplus) / 200, rel=1e-5
    )

    total = 0.0
    for anchor, target in zip(
        anchors[positive].tolist(), torch.tensor(boxes[0])[index[positive]].tolist(), strict=True
    ):
        width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
        deltas = [
            (target[0] + target[2] - anchor[0] - anchor[2]) / 2 / width,
            (target[1] + target[3] - anchor[1] - anchor[3]) / 2 / height,
            math.log((target[2] - target[0]) / width),
            math.log((target[3] - target[1]) / height),
        ]
        total += sum(4.5 * each**2 if abs(each) < 1 / 9 else abs(each) - 1 / 18 for each in deltas)
    assert box_loss.item() == pytest.approx(total / 200, rel=1e-4)


def test_losses_without_objects_have_gradients():
    head = RegionProposalHead(8, 1, STRIDES)
    nothing = truth([[[0.0] * 4]] * 2, [[-1]] * 2)
    class_loss, box_loss = head.losses(head(maps()), nothing, samples=64)
    (class_loss + box_loss).backward()
    assert box_loss.item() == 0
    assert class_loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def propose(boxes, logits, sizes=((64.0, 48.0),), count=4):
    """Boxes as the anchors of two maps, half of them each."""
    boxes, logits = torch.tensor(boxes), torch.tensor(logits)
    half = len(boxes) // 2
    predicted = Predictions(
        [logits[None, :half], logits[None, half:]],
        [torch.zeros(1, half, 4), torch.zeros(1, len(boxes) - half, 4)],
        [boxes[:half], boxes[half:]],
    )
    return RegionProposalHead(8, 1, STRIDES).propose(predicted, torch.tensor(sizes), count)


def test_propose_suppresses_on_each_map_alone():
    box, near, far = [0.0, 0, 20, 20], [0.0, 0, 20, 19], [30.0, 30, 40, 40]
    found = propose([box, near, box, far], [1.0, 3.0, 2.0, 0.0])
    assert found.boxes[0].tolist() == [near, box, far, [0, 0, 0, 0]]
    assert found.valid.tolist() == [[True, True, True, False]]


def test_propose_clips_and_leaves_out_what_is_outside():
    found = propose([[-9.0, -9, 9, 9], [50.0, 0, 60, 9], [40, 60, 90, 90], [5, 5, 9, 9]], [0.0] * 4)
    kept = found.boxes[0][found.valid[0]].tolist()
    assert sorted(kept) == [[0, 0, 9, 9], [5, 5, 9, 9], [40, 60, 48, 64]]


def test_propose_takes_the_best_of_each_map_and_of_all():
    boxes = [[10.0 * i, 0, 10.0 * i + 8, 8] for i in range(4)]
    found = propose(boxes, [4.0, 3.0, 2.0, 1.0], count=1)
    assert found.boxes[0].tolist() == [boxes[0]]


def test_names_are_the_published_ones():
    names = RegionProposalHead(8, 2, STRIDES).state_dict()
    layers = ["rpn_conv.0.conv", "rpn_conv.1.conv", "rpn_cls", "rpn_reg"]
    assert set(names) == {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
