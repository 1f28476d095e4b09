"""Models against the published implementation's own numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fastvim import FastChannelVim, FastVim, create_model

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden"
CASES = [
    "fastchannelvim_5of8",
    "fastchannelvim_channel_first_max",
    "fastchannelvim_channel_first_mean",
    "fastchannelvim_hcs_train",
    "fastchannelvim_spatial_first_mean",
    "fastvim_max",
    "fastvim_mean",
    "fastvim_no_norm",
    "fastvim_no_rotate",
    "fastvim_scaled",
]
STRUCTURES = {
    "fastchannelvim_small_patch16": "fastchannelvim_small_patch16",
    "fastchannelvim_small_patch8": "fastchannelvim_small_patch8",
    "fastvim_tiny_patch16_224": "fastvim_tiny",
    "fastvim_small_patch16_224": "fastvim_small",
    "fastvim_base_patch16_224": "fastvim_base",
}
OPTIONS = {
    "img_size": "img_size",
    "patch_size": "patch_size",
    "channels": "in_chans",
    "num_classes": "num_classes",
    "embed_dim": "embed_dim",
    "depth": "depth",
    "collapse_method": "collapse_method",
    "rotate_every_block": "rotate_every_block",
    "scaling_factor": "scaling_factor",
    "use_norm_after_ssm": "use_norm_after_ssm",
    "drop_path_rate": "drop_path_rate",
}
"""Published constructor options and what they are called here."""

pytestmark = pytest.mark.skipif(not GOLDEN.exists(), reason=f"no golden data at {GOLDEN}")


@pytest.fixture(params=CASES)
def case(request):
    folder = GOLDEN / "cases" / request.param
    published = json.loads((folder / "meta.json").read_text())["kwargs"]
    data = dict(np.load(folder / "data.npz"))
    options = {OPTIONS[name]: value for name, value in published.items() if name in OPTIONS}
    if "scan_order" in published:
        model = FastChannelVim(scan_order=published["scan_order"].lower(), **options)
    else:
        model = FastVim(**options)
    tensors = {name: torch.from_numpy(value) for name, value in data.items()}
    weights = {name.removeprefix("state/"): v for name, v in tensors.items() if "state/" in name}
    model.load_state_dict(weights)
    image, arguments = tensors["input"], ()
    if "channels" in tensors:
        image, arguments = image[:, tensors["channels"]], (tensors["channels"],)
    elif isinstance(model, FastChannelVim):
        arguments = (range(image.shape[1]),)
    return model.eval(), image, arguments, tensors


def relative(got, want):
    return ((got - want).abs().max() / want.abs().max()).item()


def test_outputs(case):
    model, image, arguments, golden = case
    logits = model(image, *arguments)
    assert relative(logits, golden["logits"]) < 1e-5
    if isinstance(model, FastChannelVim):
        pooled, _ = model.embed(image, *arguments)
        assert relative(pooled, golden["features"]) < 1e-5


def test_gradients(case):
    model, image, arguments, golden = case
    if "loss" not in golden:
        pytest.skip("the case has no gradients")
    image = image.clone().requires_grad_()
    loss = model(image, *arguments).pow(2).mean()
    loss.backward()
    assert relative(loss, golden["loss"]) < 1e-5
    gradients = {name: p.grad for name, p in model.named_parameters()} | {"input": image.grad}
    for name, want in golden.items():
        if name.startswith("grad/"):
            assert relative(gradients[name.removeprefix("grad/")], want) < 1e-4, name


@pytest.mark.parametrize(("name", "structure"), STRUCTURES.items())
def test_parameter_names_and_shapes(name, structure):
    described = json.loads((GOLDEN / "structure" / f"structure_{structure}.json").read_text())
    with torch.device("meta"):
        model = create_model(name)
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    assert shapes == described["params"]


@pytest.mark.parametrize(("depth", "rate"), [(4, 0.3), (6, 0.05), (24, 0.4)])
def test_drop_path_rates(depth, rate):
    tables = json.loads((GOLDEN / "tables" / "drop_path.json").read_text())
    model = create_model(
        "fastchannelvim_micro_patch8", embed_dim=16, depth=depth, drop_path_rate=rate
    )
    published = tables[f"fastchannel_depth{depth}_rate{rate}"]
    assert [layer.drop_rate for layer in model.layers] == pytest.approx(published["layers"])
    assert model.drop_path_rate == published["final"]
