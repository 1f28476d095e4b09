"""Models and norms compiled for a CPU against the references; `test_mix.py` has the mixer."""

import shutil

import pytest
import torch
from fastvim_kernels import norm_project

import fastvim

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="needs a C++ compiler"
)


@pytest.fixture
def compiled(monkeypatch):
    """Switch the compiler on for a call."""
    torch.compiler.reset()

    def call(function, *arguments):
        monkeypatch.setenv("FASTVIM_BACKEND", "inductor")
        try:
            return function(*arguments)
        finally:
            monkeypatch.setenv("FASTVIM_BACKEND", "auto")

    yield call
    torch.compiler.reset()


@pytest.mark.parametrize("with_bias", [False, True], ids=["rms", "layer"])
def test_normalises_as_the_reference_does(compiled, with_bias):
    torch.manual_seed(0)
    hidden, residual, projection = (torch.randn(n, 40) for n in (6, 6, 24))
    weight, bias = torch.randn(2, 40).unbind()
    inputs = [hidden, residual, weight, bias if with_bias else None, projection]
    for got, want in zip(compiled(norm_project, *inputs), norm_project(*inputs), strict=True):
        torch.testing.assert_close(got, want)


def test_a_model_has_the_same_outputs_and_gradients(compiled):
    torch.manual_seed(0)
    model = fastvim.create_model("fastvim_tiny_patch16_224", depth=2, num_classes=3)
    images = torch.randn(2, 3, 64, 48)
    with torch.inference_mode():
        want, got = model.eval()(images), compiled(model, images)
    torch.testing.assert_close(got, want)
    parameters = list(model.train().parameters())
    want = torch.autograd.grad(model(images).square().sum(), parameters)
    got = compiled(lambda: torch.autograd.grad(model(images).square().sum(), parameters))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
