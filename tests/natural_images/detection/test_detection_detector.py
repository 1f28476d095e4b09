import json

import numpy as np
import pytest
import torch

from natural_images.detection.detector import (
    Detector,
    DetectorInfo,
    HeadSection,
    build_detector,
    load_detector,
    paste_masks,
    save_detector,
)
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError

NAME = "fastvim_tiny_patch16_dense"
OPTIONS = {"embed_dim": 64, "depth": 4, "patch_size": 8, "out_indices": [3]}
HEADS = HeadSection(
    channels=24,
    rpn_convs=1,
    box_convs=1,
    box_fc=48,
    mask_convs=1,
    rpn_samples=48,
    box_samples=32,
    proposals_train=100,
    proposals_test=50,
)
SIDE = 64
NAMES = {"loss", "rpn_class", "rpn_box"} | {
    f"stage{number}_{kind}" for number in (1, 2, 3) for kind in ("class", "box", "mask")
}


def build():
    torch.manual_seed(0)
    return build_detector(NAME, OPTIONS, num_classes=3, heads=HEADS, size=SIDE)


def drawn():
    """A disc and a square of different colours, and the objects as the detector takes them."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    masks = np.stack(
        [(x - 20) ** 2 + (y - 22) ** 2 < 14**2, (abs(x - 47) < 12) & (abs(y - 43) < 14)]
    )
    image = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 0.1
    image[0, 0, torch.from_numpy(masks[0])] += 1.5
    image[0, 2, torch.from_numpy(masks[1])] -= 1.5
    boxes = torch.tensor([[[6.0, 8, 34, 36], [35, 29, 59, 57]]])
    packed = torch.from_numpy(np.packbits(masks, axis=-1))[None]
    return image, boxes, torch.tensor([[0, 2]]), packed, masks


def info(**changes):
    values = {
        "classes": ("disc", "triangle", "square"),
        "category_ids": (1, 5, 9),
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.2, 0.1),
        "size": SIDE,
        "model": NAME,
        "options": OPTIONS,
        "heads": HEADS,
    }
    return DetectorInfo(**{**values, **changes})


def without_objects(n):
    boxes, classes = torch.zeros(2, n, 4), torch.full((2, n), -1)
    return (
        torch.randn(2, 3, SIDE, SIDE),
        boxes,
        classes,
        torch.zeros(2, n, SIDE, 8, dtype=torch.uint8),
    )


def test_losses_sum_up_and_reach_every_parameter():
    *batch, _ = drawn()
    model = build()
    # All anchors, or the few of the coarsest map may not be drawn.
    model.heads = HeadSection(**{**vars(HEADS), "rpn_samples": 10**4})
    losses = model(*batch)
    assert set(losses) == NAMES
    parts = [value for name, value in losses.items() if name != "loss"]
    assert losses["loss"].item() == pytest.approx(sum(part.item() for part in parts), rel=1e-5)
    losses["loss"].backward()
    unreached = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


@pytest.mark.parametrize("n", [0, 2])
def test_images_without_objects(n):
    model = build()
    losses = model(*without_objects(n))
    assert set(losses) == NAMES
    assert all(value.isfinite() for value in losses.values())
    assert all(losses[name].item() == 0 for name in NAMES if name.endswith(("box", "mask")))
    losses["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_padding_of_objects_changes_nothing():
    image, boxes, classes, masks, _ = drawn()
    model = build()
    padded = (
        torch.cat([boxes, torch.zeros(1, 3, 4)], dim=1),
        torch.cat([classes, torch.full((1, 3), -1)], dim=1),
        torch.cat([masks, torch.zeros(1, 3, SIDE, 8, dtype=torch.uint8)], dim=1),
    )
    # What is drawn depends on the room for objects, not the losses of all anchors and RoIs.
    model.heads = model.roi_head.heads = HeadSection(
        **{**vars(HEADS), "rpn_samples": 10**4, "box_samples": 10**4}
    )
    one, other = model(image, boxes, classes, masks), model(image, *padded)
    for name in NAMES:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-6)


def test_losses_follow_the_seed():
    *batch, _ = drawn()
    model = build()
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(model(*batch)["loss"].item())
    assert losses[0] == losses[1] != losses[2]


def test_bfloat16_keeps_losses_and_boxes_in_float32():
    image, boxes, classes, masks, _ = drawn()
    model = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(image, boxes, classes, masks)
        found = model.eval().detect(image, torch.tensor([[SIDE, SIDE]]))[0]
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert all(value.isfinite() for value in losses.values())
    losses["loss"].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert found.boxes.dtype == found.scores.dtype == found.masks.dtype == torch.float32


def test_weights_that_are_not_finite_reach_the_loss():
    *batch, _ = drawn()
    model = build()
    torch.nn.init.constant_(model.rpn_head.rpn_reg.bias, torch.nan)
    assert not model(*batch)["loss"].isfinite()


def test_detect_keeps_inside_each_image_and_takes_other_sizes():
    model = build().eval()
    model.roi_head.heads = HeadSection(**{**vars(HEADS), "score": 0.0})
    found = model.detect(torch.randn(2, 3, 72, 100), torch.tensor([[72, 60], [40, 100]]))
    for each, (height, width) in zip(found, ((72, 60), (40, 100)), strict=True):
        assert len(each.boxes) > 0
        assert each.boxes.min() >= 0
        assert each.boxes[:, 2].max() <= width
        assert each.boxes[:, 3].max() <= height
        assert each.scores.equal(each.scores.sort(descending=True).values)
        assert ((each.classes >= 0) & (each.classes < 3)).all()


@pytest.mark.slow
def test_overfits_one_image():
    image, boxes, classes, packed, masks = drawn()
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(120):
        loss = model(image, boxes, classes, packed)["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
    found = model.eval().detect(image, torch.tensor([[SIDE, SIDE]]))[0]
    sure = found.scores > 0.6
    assert sorted(found.classes[sure].tolist()) == [0, 2]
    order = found.classes[sure].argsort()
    assert (found.boxes[sure][order] - boxes[0]).abs().max() < 4
    pasted = paste_masks(found.masks[sure][order], found.boxes[sure][order], (SIDE, SIDE)).numpy()
    overlap = (pasted & masks).sum((1, 2)) / (pasted | masks).sum((1, 2))
    assert (overlap > 0.8).all()


def test_save_and_load(tmp_path):
    model = build().eval()
    save_detector(model, tmp_path / "detector", info())
    loaded, described = load_detector(tmp_path / "detector")
    assert described == info()
    assert not loaded.training
    image = drawn()[0]
    sizes = torch.tensor([[SIDE, SIDE]])
    one, other = model.detect(image, sizes)[0], loaded.detect(image, sizes)[0]
    assert len(one.boxes) > 0
    assert one.boxes.equal(other.boxes)
    assert one.masks.equal(other.masks)


def test_save_checks_the_classes(tmp_path):
    with pytest.raises(NaturalImagesValueError, match="expected 3 classes and ids, got 2 and 3"):
        save_detector(build(), tmp_path / "detector", info(classes=("a", "b")))


def test_load_names_what_is_wrong(tmp_path):
    folder = tmp_path / "detector"
    save_detector(build(), folder, info())
    described = json.loads((folder / "natural_images.json").read_text())

    def describe(**changes):
        (folder / "natural_images.json").write_text(json.dumps({**described, **changes}))

    describe(heads={**described["heads"], "box_fc": 40})
    with pytest.raises(
        NaturalImagesDataError, match=r"shared_fcs\.0\.weight.*and so for 11 others"
    ):
        load_detector(folder)
    with pytest.raises(NaturalImagesValueError, match="expected no name of the backbone"):
        load_detector(folder, model=NAME)
    describe(crop=3)
    with pytest.raises(NaturalImagesDataError, match=r"expected the folder of a detector.*crop"):
        load_detector(folder)
    with pytest.raises(NaturalImagesDataError, match="no such checkpoint file"):
        load_detector(tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fastvim_tny", {}, "Unknown model 'fastvim_tny'"),
        ("fastvim_tiny_patch16_224", {}, "out_indices"),
        (NAME, {"widht": 3}, "widht"),
        (NAME, {"out_indices": [1, 2]}, "expected one map"),
        (NAME, {"patch_size": 6}, "multiples of 4"),
    ],
)
def test_build_names_what_is_wrong(name, options, message):
    with pytest.raises(NaturalImagesValueError, match=message):
        build_detector(name, options, num_classes=3, heads=HEADS, size=SIDE)


def test_build_takes_the_last_block_by_default():
    model = build_detector(NAME, {"depth": 3}, num_classes=3, heads=HEADS, size=SIDE)
    assert isinstance(model, Detector)
    assert model.backbone.out_indices == [2]


@pytest.mark.parametrize(
    "values", [{"channels": 0}, {"box_samples": 3}, {"nms": 1.5}, {"most": 2.0}, {"mask_norm": 1}]
)
def test_head_section_checks_itself(values):
    with pytest.raises(NaturalImagesValueError, match=f"heads key '{next(iter(values))}'"):
        HeadSection(**values)
