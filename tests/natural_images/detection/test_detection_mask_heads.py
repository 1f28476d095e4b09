import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import roi_align

from natural_images.detection import mask_heads
from natural_images.detection.mask_heads import MaskHead, crop_masks, paste_masks, unpack_masks

HEIGHT, WIDTH = 50, 61


def discs():
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return np.stack(
        [
            (x - 30) ** 2 + (y - 25) ** 2 < 20**2,
            (x - 12) ** 2 + (y - 12) ** 2 < 7**2,
            np.abs(x - 40) + np.abs(y - 30) < 12,
            np.zeros_like(x, bool),
        ]
    )


def packed(masks):
    return torch.from_numpy(np.packbits(masks, axis=-1))


def box_of(mask):
    y, x = np.nonzero(mask)
    return [float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1)]


@pytest.mark.parametrize("width", [1, 8, 13, 64])
def test_unpack_masks_undoes_packbits(width):
    masks = np.random.default_rng(0).random((2, 3, 5, width)) < 0.5
    assert (unpack_masks(packed(masks), width).numpy() == masks).all()


def test_crop_masks_is_roi_align_of_the_masks():
    masks = discs()
    boxes = torch.tensor(
        [[10.0, 5, 50, 45], [3.3, 4.1, 20.7, 21.9], [0, 0, 61, 50], [28, 18, 53, 43]]
    )
    objects = torch.tensor([0, 1, 1, 2])
    reference = roi_align(
        torch.from_numpy(masks).float()[:, None],
        torch.cat([objects[:, None].float(), boxes], dim=1),
        28,
        aligned=True,
    )
    found = crop_masks(packed(masks), WIDTH, boxes, objects)
    assert found.shape == (4, 28, 28)
    assert found.equal((reference[:, 0] >= 0.5).float())
    assert 0 < found.mean() < 1


def test_crop_masks_by_hand():
    """A box of 28 × 28 px sees the mask as it is, and one of 56 px two by two pixels at a time."""
    mask = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.5
    box = torch.tensor([[9.0, 13, 37, 41]])
    found = crop_masks(packed(mask[None]), WIDTH, box, torch.tensor([0]))
    assert (found[0].numpy() == mask[13:41, 9:37]).all()
    double = np.kron(mask, np.ones((2, 2), bool))[None]
    found = crop_masks(packed(double), 2 * WIDTH, 2 * box, torch.tensor([0]))
    assert (found[0].numpy() == mask[13:41, 9:37]).all()


def test_crop_masks_of_no_boxes():
    nothing = torch.zeros(0, dtype=torch.int64)
    assert crop_masks(packed(discs()), WIDTH, torch.zeros(0, 4), nothing).shape == (0, 28, 28)


def test_paste_masks_is_bilinear_sampling():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(3, 28, 28, generator=generator)
    boxes = torch.tensor([[3.2, 4.7, 40.1, 33.3], [-10, -5, 30, 60], [20, 20, 25, 23]])
    y, x = torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5
    expected = []
    for mask, (x0, y0, x1, y1) in zip(probabilities, boxes, strict=True):
        down, across = (y - y0) / (y1 - y0) * 2 - 1, (x - x0) / (x1 - x0) * 2 - 1
        grid = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1)
        expected.append(F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0])
    differ = paste_masks(probabilities, boxes, (HEIGHT, WIDTH)) != (torch.stack(expected) >= 0.5)
    # At a probability of ½ to rounding either answer is right.
    assert differ.sum() <= 2


def test_paste_masks_undoes_crop_masks():
    masks = discs()[:3]
    boxes = torch.tensor([box_of(mask) for mask in masks])
    crops = crop_masks(packed(masks), WIDTH, boxes, torch.arange(3))
    pasted = paste_masks(crops, boxes, (HEIGHT, WIDTH)).numpy()
    common, union = (pasted & masks).sum((1, 2)), (pasted | masks).sum((1, 2))
    assert (common / union > 0.93).all()


def test_paste_masks_in_parts(monkeypatch):
    masks = discs()[:3]
    boxes = torch.tensor([box_of(mask) for mask in masks])
    crops = crop_masks(packed(masks), WIDTH, boxes, torch.arange(3))
    whole = paste_masks(crops, boxes, (HEIGHT, WIDTH))
    monkeypatch.setattr(mask_heads, "PASTED_AT_ONCE", 2 * HEIGHT * WIDTH)
    assert paste_masks(crops, boxes, (HEIGHT, WIDTH)).equal(whole)
    assert paste_masks(crops[:0], boxes[:0], (HEIGHT, WIDTH)).shape == (0, HEIGHT, WIDTH)


@pytest.mark.parametrize("norm", [True, False])
def test_mask_head_gives_the_mask_of_each_class(norm):
    torch.manual_seed(0)
    head = MaskHead(8, 5, convs=2, norm=norm)
    with torch.no_grad():
        head.conv_logits.weight.zero_()
        head.conv_logits.bias.copy_(torch.arange(5.0))
    logits = head(torch.randn(3, 8, 14, 14), torch.tensor([4, 0, 2]))
    assert logits.shape == (3, 28, 28)
    assert logits.amax((1, 2)).tolist() == logits.amin((1, 2)).tolist() == [4, 0, 2]
    beside = "ln.weight" if norm else "conv.bias"
    assert f"convs.1.{beside}" in head.state_dict()
