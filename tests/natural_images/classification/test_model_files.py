"""A folder gives the model back, plain and averaged, and says clearly when it cannot."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fastvim import create_model
from natural_images.classification.architectures import create_classifier
from natural_images.classification.model_files import describe_class, load_model, save_model
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError

MICRO = {"embed_dim": 16, "depth": 2, "patch_size": 4}
TINY_VIT = {**MICRO, "num_heads": 2}
NAMES = {"fastvim_tiny_patch16_224": MICRO, "vim_tiny_patch16_224": MICRO}
NAMES |= {"vit_tiny_patch16_224": TINY_VIT}
STATISTICS: dict[str, Any] = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "size": 16}


def build(name: str = "fastvim_tiny_patch16_224", classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    model = create_classifier(name, num_classes=classes, size=16, options=NAMES[name])
    return model.eval()


def shifted(model: nn.Module) -> dict[str, Tensor]:
    """Other weights of the same shapes."""
    return {name: value + 0.1 for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", NAMES)
def test_folder_gives_the_model_back(name: str, tmp_path: Path) -> None:
    model, images = build(name), torch.randn(2, 3, 16, 16)
    averaged = shifted(model)
    save_model(model, tmp_path / "m", classes="abc", eval_crop=0.9, ema=averaged, **STATISTICS)
    loaded, info = load_model(tmp_path / "m")
    assert torch.equal(loaded(images), model(images))
    assert not loaded.training
    assert info.classes == ("a", "b", "c")
    assert (info.mean, info.std) == (STATISTICS["mean"], STATISTICS["std"])
    assert (info.size, info.eval_crop) == (16, 0.9)
    assert info.parameters == sum(value.numel() for value in model.parameters())

    loaded, other = load_model(tmp_path / "m", weights="ema")
    model.load_state_dict(averaged)
    assert torch.equal(loaded(images), model(images))
    assert other.weights_sha256 != info.weights_sha256
    # what was loaded can be saved again
    save_model(loaded, tmp_path / "again", classes="abc", **STATISTICS)
    assert load_model(tmp_path / "again")[1].architecture == info.architecture


def test_timm_opens_the_folder_of_its_models(tmp_path: Path) -> None:
    model, images = build("vit_tiny_patch16_224"), torch.randn(2, 3, 16, 16)
    save_model(model, tmp_path / "m", classes="abc", **STATISTICS)
    loaded = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True).eval()
    assert torch.equal(loaded(images), model(images))
    assert tuple(loaded.pretrained_cfg["mean"]) == STATISTICS["mean"]


@pytest.mark.parametrize("averaged", [False, True])
def test_published_file_gets_what_imagenet_has(averaged: bool, tmp_path: Path) -> None:
    model = create_model(
        "fastvim_tiny_patch16_224", num_classes=1000, embed_dim=16, depth=1, img_size=32
    )
    plain = {f"backbone.{name}": value for name, value in model.state_dict().items()}
    ema = {name: value + 0.1 for name, value in plain.items()}
    torch.save({"state_dict": plain, "state_dict_ema": ema}, tmp_path / "published.ckpt")
    loaded, info = load_model(tmp_path / "published.ckpt", weights="ema" if averaged else "plain")
    expected = (ema if averaged else plain)["backbone.head.weight"]
    assert torch.equal(loaded.head.weight, expected)
    assert (info.size, info.eval_crop, info.architecture) == (32, 0.875, "FastVim")
    assert info.classes[0] == "n01440764"
    assert len(info.classes) == 1000
    assert describe_class(info.classes[0]) == "tench"
    assert describe_class("7") == "7"


def test_options_that_a_published_file_cannot_tell(tmp_path: Path) -> None:
    save_file(build().state_dict(), tmp_path / "tuned.safetensors")
    model, _ = load_model(tmp_path / "tuned.safetensors", options={"scaling_factor": 0.25})
    plain, _ = load_model(tmp_path / "tuned.safetensors")
    images = torch.randn(2, 3, 16, 16)
    assert not torch.allclose(model(images), plain(images))
    with pytest.raises(NaturalImagesDataError, match="scaling_factr"):
        load_model(tmp_path / "tuned.safetensors", options={"scaling_factr": 0.25})
    save_model(build(), tmp_path / "m", classes="abc", **STATISTICS)
    with pytest.raises(NaturalImagesValueError, match=r"expected no options.*scaling_factor"):
        load_model(tmp_path / "m", options={"scaling_factor": 0.25})


def test_missing_averaged_weights_are_told(tmp_path: Path) -> None:
    model = build()
    save_model(model, tmp_path / "m", classes="abc", **STATISTICS)
    with pytest.raises(NaturalImagesDataError, match=r"no averaged weights.*recipe.ema_decay"):
        load_model(tmp_path / "m", weights="ema")
    save_file(model.state_dict(), tmp_path / "bare.safetensors")
    assert load_model(tmp_path / "bare.safetensors")[1].classes == ("0", "1", "2")
    with pytest.raises(NaturalImagesDataError, match="no averaged weights"):
        load_model(tmp_path / "bare.safetensors", weights="ema")


def test_what_is_no_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NaturalImagesDataError, match="not there"):
        load_model(tmp_path / "absent")
    with pytest.raises(NaturalImagesDataError, match=r"found no natural_images.json"):
        load_model(tmp_path)
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    with pytest.raises(NaturalImagesDataError, match="no image classifier to load"):
        load_model(tmp_path / "text.ckpt")
    masked = create_model("fastmaskvim_base_patch16_224", img_size=32, embed_dim=16, depth=2)
    save_file(masked.state_dict(), tmp_path / "masked.safetensors")
    with pytest.raises(NaturalImagesDataError, match="got a FastMaskVim"):
        load_model(tmp_path / "masked.safetensors")
    with pytest.raises(NaturalImagesValueError, match="'plain', 'ema'"):
        load_model(tmp_path, weights="best")  # type: ignore[arg-type]


def test_damaged_description_is_told(tmp_path: Path) -> None:
    save_model(build(), tmp_path / "m", classes="abc", **STATISTICS)
    file = tmp_path / "m/natural_images.json"
    described = json.loads(file.read_text())
    file.write_text(json.dumps(described | {"classes": ["a"]}))
    with pytest.raises(NaturalImagesDataError, match="names 1 classes, the model has 3"):
        load_model(tmp_path / "m")
    file.write_text("{")
    with pytest.raises(NaturalImagesDataError, match="no image classifier to load"):
        load_model(tmp_path / "m")


def test_what_does_not_fit_is_not_saved(tmp_path: Path) -> None:
    model = build()
    with pytest.raises(NaturalImagesValueError, match="expected 3 names of classes"):
        save_model(model, tmp_path / "m", classes="ab", **STATISTICS)
    with pytest.raises(NaturalImagesValueError, match=r"ema: .*are not in both"):
        save_model(model, tmp_path / "m", classes="abc", ema={"x": torch.ones(1)}, **STATISTICS)
    foreign = timm.create_model("vit_tiny_patch16_224", num_classes=3, **TINY_VIT)
    with pytest.raises(NaturalImagesValueError, match="create_classifier"):
        save_model(foreign, tmp_path / "m", classes="abc", **STATISTICS)
    assert not list(tmp_path.iterdir())
