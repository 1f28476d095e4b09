import json
from pathlib import Path

import pytest
import torch

from natural_images.detection.detector import HeadSection, build_detector, load_detector
from natural_images.errors import NaturalImagesDataError

STRUCTURE = Path(__file__).parents[4] / "shared" / "golden" / "structure"
HEADS = HeadSection(channels=24, rpn_convs=1, box_convs=1, box_fc=48, mask_convs=1)


def build(name="fastvim_tiny_patch16_dense", num_classes=80, heads=HEADS):
    torch.manual_seed(0)
    options = {"embed_dim": 64, "depth": 2, "patch_size": 8}
    return build_detector(name, options, num_classes=num_classes, heads=heads, size=64)


def published(model, **changes):
    """A file's content, with what OpenMMLab adds to the weights."""
    state = {name.replace(".ln.", ".norm_layer."): v for name, v in model.state_dict().items()}
    return {"meta": {"epoch": 3}, "state_dict": {**state, **changes}, "optimizer": {"state": {}}}


def detections(model):
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return model.eval().detect(image, torch.tensor([[64, 64]]))[0]


@pytest.mark.parametrize("mask_norm", [True, False])
def test_load_a_published_file(tmp_path, mask_norm):
    heads = HeadSection(**{**vars(HEADS), "mask_norm": mask_norm, "score": 0.05})
    model = build(num_classes=2, heads=heads)
    torch.save(published(model), tmp_path / "epoch_3.pth")
    loaded, info = load_detector(tmp_path / "epoch_3.pth")
    assert info.heads == heads
    assert (info.size, info.classes, info.category_ids) == (64, ("1", "2"), (1, 2))
    one, other = detections(model), detections(loaded)
    assert len(one.boxes) > 0
    assert one.boxes.equal(other.boxes)
    assert one.scores.equal(other.scores)


def test_a_file_of_eighty_classes_is_of_coco(tmp_path):
    torch.save(published(build()), tmp_path / "coco.pth")
    _, info = load_detector(tmp_path / "coco.pth")
    assert len(info.classes) == len(set(info.classes)) == len(info.category_ids) == 80
    assert list(info.category_ids) == sorted(info.category_ids)
    assert (info.classes[0], info.category_ids[0]) == ("person", 1)
    assert (info.classes[-1], info.category_ids[-1]) == ("toothbrush", 90)
    assert info.classes[info.category_ids.index(44)] == "bottle"
    assert info.mean == (0.485, 0.456, 0.406)


def test_a_file_of_a_vim_needs_its_name(tmp_path, caplog):
    model = build("vim_small_patch16_dense", num_classes=2)
    torch.save(published(model), tmp_path / "vim.pth")
    loaded, info = load_detector(tmp_path / "vim.pth", model="vim_small_patch16_dense")
    assert type(loaded.backbone) is type(model.backbone)
    assert info.model == "vim_small_patch16_dense"
    assert "taken for" not in caplog.text
    with caplog.at_level("INFO"):
        load_detector(tmp_path / "vim.pth")
    assert "vim.pth: taken for a fastvim_" in caplog.text
    assert detections(model).scores.equal(detections(loaded).scores)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("neck.fpn5.0.weight", torch.zeros(3), r"unknown neck\.fpn5\.0\.weight: \(3,\)"),
        ("roi_head.bbox_head.1.fc_reg.bias", torch.zeros(8), r"another shape.*\(4,\): \(8,\)"),
        ("roi_head.mask_head.2.upsample.bias", None, r"no roi_head\.mask_head\.2\.upsample\.bias"),
        ("neck.lateral_convs.0.conv.weight", None, "expected a Cascade Mask R-CNN"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path, name, value, message):
    content = published(build(num_classes=2))
    content["state_dict"].pop(name, None)
    if value is not None:
        content["state_dict"][name] = value
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(NaturalImagesDataError, match=message):
        load_detector(tmp_path / "other.pth")


@pytest.mark.parametrize("content", [b"no checkpoint", b""])
def test_a_file_that_is_no_checkpoint(tmp_path, content):
    (tmp_path / "other.pth").write_bytes(content)
    with pytest.raises(NaturalImagesDataError, match="expected a detector"):
        load_detector(tmp_path / "other.pth")


@pytest.mark.data
@pytest.mark.parametrize(
    ("structure", "name"),
    [
        ("fastvim_tiny", "fastvim_tiny_patch16_dense"),
        ("fastvim_small", "fastvim_small_patch16_dense"),
        ("fastvim_base", "fastvim_base_patch16_dense"),
        ("vim_small", "vim_small_patch16_dense"),
    ],
)
def test_full_size_backbones_have_the_published_names_and_shapes(structure, name):
    file = STRUCTURE / f"structure_mm_{structure}_det1024.json"
    if not file.is_file():
        pytest.skip(f"{file.name} is not in ../shared/golden")
    with torch.device("meta"):
        model = build_detector(name, num_classes=80, size=1024)
    shapes = {name: list(value.shape) for name, value in model.backbone.state_dict().items()}
    assert shapes == json.loads(file.read_text())["params"]


def test_full_size_heads_have_the_shapes_of_the_table():
    with torch.device("meta"):
        model = build_detector("fastvim_tiny_patch16_dense", num_classes=80, size=1024)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    expected = {
        "neck.fpn1.0.weight": (192, 96, 2, 2),
        "neck.fpn1.1.weight": (96,),
        "neck.fpn1.3.weight": (96, 48, 2, 2),
        "neck.fpn2.0.weight": (192, 96, 2, 2),
        "neck.lateral_convs.0.conv.weight": (256, 48, 1, 1),
        "neck.lateral_convs.3.ln.bias": (256,),
        "neck.fpn_convs.2.conv.weight": (256, 256, 3, 3),
        "rpn_head.rpn_conv.1.conv.bias": (256,),
        "rpn_head.rpn_cls.weight": (3, 256, 1, 1),
        "rpn_head.rpn_reg.weight": (12, 256, 1, 1),
        "roi_head.bbox_head.2.shared_convs.3.ln.weight": (256,),
        "roi_head.bbox_head.0.shared_fcs.0.weight": (1024, 256 * 49),
        "roi_head.bbox_head.1.fc_cls.weight": (81, 1024),
        "roi_head.bbox_head.1.fc_reg.weight": (4, 1024),
        "roi_head.mask_head.2.convs.3.conv.weight": (256, 256, 3, 3),
        "roi_head.mask_head.0.upsample.weight": (256, 256, 2, 2),
        "roi_head.mask_head.0.conv_logits.weight": (80, 256, 1, 1),
    }
    assert {name: shapes[name] for name in expected} == expected
    assert {name.split(".")[0] for name in shapes} == {"backbone", "neck", "rpn_head", "roi_head"}
