import json

import pytest
import torch

from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError
from natural_images.segmentation import inference
from natural_images.segmentation.segmenter import (
    SegmenterInfo,
    build_segmenter,
    load_segmenter,
    save_segmenter,
)
from natural_images.segmentation.upernet import HeadSection

OPTIONS = {"embed_dim": 16, "depth": 4, "patch_size": 8, "out_indices": [0, 3]}
HEADS = HeadSection(channels=8, pool_scales=(1, 2), auxiliary_channels=4, auxiliary_map=0)
NAME = "fastvim_tiny_patch16_dense"
INFO = SegmenterInfo(
    classes=("sky", "sea"),
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
    crop=32,
    model=NAME,
    options=OPTIONS,
    heads=HEADS,
    test=inference.TestSection(crop=32, stride=20, short_side=None, ratios=(1.0, 1.5)),
)


def build(name=NAME, **options):
    return build_segmenter(name, {**OPTIONS, **options}, num_classes=2, heads=HEADS, crop=32)


@pytest.fixture
def folder(tmp_path):
    model = build()
    model(torch.randn(2, 3, 32, 32))  # so that batch statistics are not the initial ones
    save_segmenter(model, tmp_path / "model", INFO)
    return tmp_path / "model", model.eval()


def test_a_folder_brings_everything_back(folder):
    path, model = folder
    loaded, info = load_segmenter(path)
    image = torch.randn(1, 3, 40, 48)
    assert torch.equal(loaded(image), model(image))
    assert not loaded.training
    assert loaded.backbone.out_indices == [0, 3]
    expected = {**vars(INFO), "options": {**model.backbone.options, "out_indices": [0, 3]}}
    assert vars(info) == expected
    assert predict_shape(loaded, info) == (2, 50, 41)


def predict_shape(model, info):
    return tuple(inference.predict(model, torch.randn(3, 50, 41), info.test).shape)


def test_a_loaded_model_is_saved_again_as_it_is(folder, tmp_path):
    model, info = load_segmenter(folder[0])
    save_segmenter(model, tmp_path / "again", info)
    again, same = load_segmenter(tmp_path / "again")
    assert same == info
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True)
    )


def test_a_folder_has_the_options_that_the_model_was_built_with(tmp_path):
    """Even where the one who saves it tells others."""
    save_segmenter(build(residual_stream=True), tmp_path / "model", INFO)
    loaded, info = load_segmenter(tmp_path / "model")
    assert loaded.backbone.residual_stream
    assert info.options["residual_stream"] is True


def test_vim_is_a_backbone_too(tmp_path):
    model = build("vim_small_patch16_dense")
    assert model.eval()(torch.randn(1, 3, 32, 32)).shape == (1, 2, 32, 32)


def test_positions_are_those_of_the_crop():
    assert build().backbone.grid == (4, 4)
    assert build(img_size=64).backbone.grid == (8, 8)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fastvim_tny", {}, "model: Unknown model 'fastvim_tny'. Did you mean"),
        ("fastvim_tiny_patch16_224", {"out_indices": (3,)}, "model: "),
        (NAME, {"colour": "red"}, "model: .*colour"),
        (NAME, {"out_indices": [9]}, "model: out_indices: expected different blocks in 0..3"),
    ],
)
def test_models_that_cannot_be_built(name, options, message):
    with pytest.raises(NaturalImagesValueError, match=message):
        build(name, **options)


def test_a_classifier_is_no_backbone():
    with pytest.raises(NaturalImagesValueError, match=r"model\.name: expected a dense backbone"):
        build_segmenter(
            "fastvim_tiny_patch16_224", {"depth": 1}, num_classes=2, heads=HEADS, crop=32
        )


def test_every_class_has_a_name(tmp_path):
    model = build_segmenter(NAME, OPTIONS, num_classes=3, heads=HEADS, crop=32)
    with pytest.raises(NaturalImagesValueError, match=r"expected 3 names of classes.* got 2"):
        save_segmenter(model, tmp_path / "model", INFO)
    assert not (tmp_path / "model").exists()


def test_what_is_no_segmenter(folder, tmp_path):
    path, _ = folder
    with pytest.raises(NaturalImagesDataError, match="absent: not there"):
        load_segmenter(tmp_path / "absent")
    with pytest.raises(NaturalImagesDataError, match="expected a model folder"):
        load_segmenter(tmp_path)
    with pytest.raises(NaturalImagesValueError, match="expected no options"):
        load_segmenter(path, options={"family": "vim"})
    description = path / "natural_images.json"
    described = json.loads(description.read_text())
    for change, message in (
        ({"task": "detection"}, "expected a model of task 'segmentation', got 'detection'"),
        ({"classes": ["sky"]}, r"no segmenter to load \(.*size mismatch"),
        ({"heads": {"channels": 0}}, r"no segmenter to load \(.*channels: expected"),
        ({"crop_": 3}, r"no segmenter to load \(.*crop_"),
    ):
        description.write_text(json.dumps({**described, **change}))
        with pytest.raises(NaturalImagesDataError, match=message) as caught:
            load_segmenter(path)
        assert "\n" not in str(caught.value)
