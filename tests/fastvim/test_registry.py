"""Every registered model, small, and the registry's answers."""

import subprocess
import sys

import pytest
import torch

import fastvim
from fastvim import create_model, list_models
from fastvim.dense import DenseBackbone
from fastvim.registry import MODELS
from fastvim.timm_methods import TimmClassifier

TINY = {"img_size": 32, "embed_dim": 16, "depth": 2}


def tiny(name, **more):
    """One of the models, small, with what only its kind can be told."""
    model_class, _ = MODELS[name]
    if issubclass(model_class, TimmClassifier):
        more["num_classes"] = 3
    elif issubclass(model_class, DenseBackbone):
        more["out_indices"] = (0, 1)
    else:
        more["decoder_embed_dim"] = 8
    return create_model(name, **TINY, **more)


def run(model, image):
    """Outputs of a model, one after another; its masking is always the same."""
    torch.manual_seed(1)
    outputs = model(image)
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


@pytest.mark.parametrize("name", MODELS)
def test_every_model(name, tmp_path):
    torch.manual_seed(0)
    model = tiny(name, drop_path_rate=0.1)
    image = torch.randn(2, model.in_chans, 24, 40)
    sum(output.square().mean() for output in run(model.train(), image)).backward()
    for parameter_name, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad.isfinite().all(), parameter_name
    model.save_pretrained(tmp_path / "model")
    again = type(model).from_pretrained(tmp_path / "model")
    with torch.no_grad():
        outputs = run(model.eval(), image)
        assert all(map(torch.equal, outputs, run(again, image)))
    if isinstance(model, TimmClassifier):
        assert outputs[0].shape == (2, 3)


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


def test_exports():
    everything = {}
    exec("from fastvim import *; from fastvim.registry import *", everything)
    assert set(fastvim.__all__) <= set(everything)
    assert everything["MODELS"] is MODELS


def test_imports_are_quiet():
    code = (
        "import importlib, sys, fastvim, torch, timm; importlib.reload(fastvim.registry); "
        "print('transformers' in sys.modules, torch.cuda.is_initialized(), "
        "'fastvim_tiny_patch16_224' in timm.list_models())"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False False True\n", "")
