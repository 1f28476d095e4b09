"""Checkpoints as OpenMMLab writes them, drawn here, and the full-size structures."""

import json
from pathlib import Path

import pytest
import torch

import fastvim
from natural_images.errors import NaturalImagesDataError
from natural_images.segmentation.ade20k import open_ade20k
from natural_images.segmentation.network import Segmenter
from natural_images.segmentation.published import class_names, head_shapes, registry_name
from natural_images.segmentation.segmenter import load_segmenter, save_segmenter
from natural_images.segmentation.upernet import HeadSection

SHARED = Path(__file__).parents[4] / "shared"
STRUCTURES = SHARED / "golden" / "structure"
ADE20K = SHARED / "data" / "natural_ade20k_sceneparsing150"
OPTIONS = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 4}
HEADS = HeadSection(channels=8, auxiliary_channels=4)


def shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


@pytest.fixture
def model():
    torch.manual_seed(0)
    backbone = fastvim.DenseFastVim(out_indices=(0, 1, 2, 3), **OPTIONS)
    model = Segmenter(backbone, 5, HEADS)
    model(torch.randn(2, 3, 32, 32))
    return model.eval()


def write(model, path, *, change=lambda state: state):
    """Weights with the counters and settings that a training framework saves beside them."""
    state = change(dict(model.state_dict()))
    optimizer = torch.optim.AdamW(model.parameters()).state_dict()
    torch.save({"meta": {"iter": 160000}, "state_dict": state, "optimizer": optimizer}, path)
    return path


def test_a_checkpoint_file_is_a_segmenter(model, tmp_path):
    loaded, info = load_segmenter(write(model, tmp_path / "iter_160000.pth"))
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded(image), model(image))
    assert not loaded.training
    assert info.classes == ("class 1", "class 2", "class 3", "class 4", "class 5")
    assert (info.crop, info.test.crop, info.test.stride) == (32, 32, 21)
    assert info.heads == HEADS
    save_segmenter(loaded, tmp_path / "folder", info)
    again, same = load_segmenter(tmp_path / "folder")
    assert torch.equal(again(image), model(image))
    assert same == info


def test_vim_without_a_class_token_has_the_same_names(tmp_path):
    """So that one must be told of it."""
    backbone = fastvim.DenseVim(out_indices=(0, 1, 2, 3), **OPTIONS)
    model = Segmenter(backbone, 5, HEADS).eval()
    file = write(model, tmp_path / "vim.pth")
    loaded, info = load_segmenter(file, options={"family": "vim"})
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded(image), model(image))
    assert info.model == "vim_small_patch16_dense"


def without(name):
    return lambda state: {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without("decode_head.bottleneck.conv.weight"),
            "decode_head.bottleneck.conv.weight missing",
        ),
        (without("backbone.outnorm_2.bias"), "expected a whole backbone.*outnorm_2.bias"),
        (without("auxiliary_head.conv_seg.weight"), "expected an ADE20K checkpoint"),
        (
            lambda state: {**state, "decode_head.more.weight": torch.ones(1)},
            "nothing missing and decode_head.more.weight that it has no use for",
        ),
        (
            lambda state: {**state, "decode_head.fpn_convs.0.conv.weight": torch.ones(8, 8, 1, 1)},
            r"fpn_convs.0.conv.weight \(8, 8, 1, 1\) instead of \(8, 8, 3, 3\)",
        ),
        (
            lambda state: {k: v for k, v in state.items() if not k.startswith("backbone")},
            "no segmenter to load",
        ),
    ],
)
def test_files_that_are_no_segmenter(model, tmp_path, change, message):
    file = write(model, tmp_path / "broken.pth", change=change)
    with pytest.raises(NaturalImagesDataError, match=message) as caught:
        load_segmenter(file)
    assert str(file) in str(caught.value)


def test_a_classifier_is_no_segmenter(tmp_path):
    file = tmp_path / "classifier.pth"
    torch.save({"state_dict": fastvim.FastVim(num_classes=3, **OPTIONS).state_dict()}, file)
    with pytest.raises(
        NaturalImagesDataError, match=r"expected an ADE20K checkpoint.*got a FastVim"
    ):
        load_segmenter(file)


@pytest.mark.parametrize("heads", [HEADS, HeadSection(channels=6, pool_scales=(1, 4))])
def test_the_table_of_names_is_that_of_the_heads(heads):
    """`head_shapes` is written from the recipe, the model in another file."""
    backbone = fastvim.DenseFastVim(out_indices=(0, 1, 3), **OPTIONS)
    own = shapes(Segmenter(backbone, 5, heads))
    named = head_shapes(16, 3, 5, heads)
    assert {name: shape for name, shape in own.items() if not name.startswith("backbone.")} == named


@pytest.mark.skipif(not STRUCTURES.exists(), reason="the structures are not in ../shared/golden")
@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_full_size_names_and_shapes(size):
    structure = json.loads((STRUCTURES / f"structure_mm_fastvim_{size}_seg512.json").read_text())
    with torch.device("meta"):
        backbone = fastvim.create_model(f"fastvim_{size}_patch16_dense", img_size=512)
        own = shapes(Segmenter(backbone, 150, HeadSection()))
    published = {f"backbone.{name}": tuple(shape) for name, shape in structure["params"].items()}
    published |= head_shapes(structure["kwargs"]["embed_dim"], 4, 150, HeadSection())
    assert own == published
    assert registry_name(backbone) == f"fastvim_{size}_patch16_dense"


def test_names_of_the_published_heads():
    """Spelt out: the shapes of the recipe for FastVim-T."""
    named = head_shapes(192, 4, 150, HeadSection())
    assert named["decode_head.psp_modules.3.1.conv.weight"] == (512, 192, 1, 1)
    assert named["decode_head.bottleneck.conv.weight"] == (512, 192 + 4 * 512, 3, 3)
    assert named["decode_head.lateral_convs.2.bn.running_var"] == (512,)
    assert named["decode_head.fpn_bottleneck.conv.weight"] == (512, 2048, 3, 3)
    assert named["auxiliary_head.convs.0.conv.weight"] == (256, 192, 3, 3)
    assert named["auxiliary_head.conv_seg.bias"] == (150,)
    assert len(named) == 6 * (4 + 1 + 3 + 3 + 1 + 1) + 4


@pytest.mark.data
@pytest.mark.skipif(not ADE20K.exists(), reason="ADE20K's samples are not in ../shared/data")
def test_names_of_the_150_classes():
    source = open_ade20k(ADE20K / "sampleData", split="validation")
    assert class_names(150) == source.classes
