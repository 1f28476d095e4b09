"""Inference compiled for a CPU against the references."""

import shutil

import pytest
import torch
from fastvim_kernels import mix, norm_project

import fastvim

FP32, BF16 = torch.float32, torch.bfloat16
RANK, STATE = 2, 16

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


def arguments(grid, *, dim=8, norm=True, dtype=FP32, batch=2):
    torch.manual_seed(0)
    channel = 2 * dim
    shapes = [
        (batch, *grid, 2 * channel),
        *[(2, channel, 4), (2, channel), (2, channel)],
        *[(2, RANK + 2 * STATE, channel), (2, channel, RANK), (2, channel), (2, channel, STATE)],
        *[(channel,), (channel,)],
        (dim, channel),
    ]
    xz, *rest = [torch.randn(shape) for shape in shapes]
    rest[3] /= channel**0.5
    rest[6].sub_(2).clamp_(-3, 3)
    if not norm:
        rest[7] = rest[8] = None
    return [xz.to(dtype), *rest]


@pytest.mark.parametrize(
    ("grid", "options", "norm", "dtype"),
    [
        ((3, 4), ((0, 1), (1,), "mean", 1.0), True, FP32),
        ((18, 3), ((1, 0), (1,), "mean", 0.25), False, FP32),
        ((20, 2), ((0, 1), (1,), "max", 1.0), True, BF16),
        ((2, 2, 3), ((2, 0, 1), (0, 2), "mean", 1.0), True, FP32),
        ((2, 4, 3), ((1, 0, 2), (1,), "mean", 1.0), True, BF16),
        ((33,), ((0,), (), "mean", 1.0), True, FP32),
    ],
    ids=["rows", "columns", "maxima", "volume", "channels", "sequence"],
)
def test_mixes_as_the_reference_does(compiled, grid, options, norm, dtype):
    inputs = arguments(grid, norm=norm, dtype=dtype)
    got, want = compiled(mix, *inputs, *options), mix(*inputs, *options)
    assert (got.shape, got.dtype, got.stride()) == (want.shape, want.dtype, want.stride())
    assert (got - want).norm() / want.norm() < (1e-5 if dtype == FP32 else 2e-2)


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
