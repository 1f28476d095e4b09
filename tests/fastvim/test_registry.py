"""Every registered model, small, and the registry's answers."""

import subprocess
import sys

import pytest
import torch

import fastvim
from fastvim import create_model, list_models
from fastvim.registry import register_model

TINY = {"img_size": 32, "embed_dim": 16, "depth": 2, "num_classes": 3}


@pytest.mark.parametrize("name", list_models())
def test_every_model(name, tmp_path):
    torch.manual_seed(0)
    model = create_model(name, **TINY, drop_path_rate=0.1)
    image = torch.randn(2, model.in_chans, 24, 40)
    loss = model.train()(image).square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.save_pretrained(tmp_path / "model")
    again = type(model).from_pretrained(tmp_path / "model")
    with torch.no_grad():
        logits = model.eval()(image)
        assert logits.shape == (2, 3)
        assert torch.equal(logits, again(image))


def test_list_models():
    assert list_models() == sorted(list_models())
    assert "fastchannelvim_small_patch8" in list_models("fastchannelvim_*")
    assert not any(name.startswith("fastvim") for name in list_models("fastchannelvim_*"))


def test_unknown_name_lists_near_matches():
    with pytest.raises(
        ValueError, match=r"'fastchannelvim_smal_patch8'.*fastchannelvim_small_patch8"
    ):
        create_model("fastchannelvim_smal_patch8")
    with pytest.raises(ValueError, match=r"Known models: .*fastvim_tiny_patch16_224"):
        create_model("resnet")


def test_unknown_option():
    with pytest.raises(TypeError, match="embed_dims"):
        create_model("fastchannelvim_micro_patch8", embed_dims=16)


def test_a_name_is_registered_once():
    def fastvim_tiny_patch16_224():
        raise AssertionError

    with pytest.raises(ValueError, match="registered twice"):
        register_model(fastvim_tiny_patch16_224)


def test_exports():
    assert fastvim.__all__ == ["FastChannelVim", "FastVim", "create_model", "list_models"]


def test_import_is_light():
    code = (
        "import sys, fastvim, torch; "
        "print([m for m in ('triton', 'transformers', 'torchvision') if m in sys.modules], "
        "torch.cuda.is_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] False"
