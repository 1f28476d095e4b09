"""Norm and projection as one operation against the two, on every backend."""

import pytest
import torch
from fastvim_kernels import add_norm, norm_project
from torch.autograd.graph import saved_tensors_hooks

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FP32, BF16 = torch.float32, torch.bfloat16
DIM, OUT = 40, 24


@pytest.fixture(params=["torch", "triton"] + ["native"] * (DEVICE == "cpu"))
def backend(request, monkeypatch, poisoned_memory):
    """Run on one backend, on poisoned memory."""
    if request.param == "native":
        request.getfixturevalue("native_backend")
    monkeypatch.setenv("FASTVIM_BACKEND", request.param)
    return request.param


def arguments(*, with_residual=True, with_bias=False, dtype=FP32, rows=(2, 3, 4), dim=DIM):
    torch.manual_seed(0)
    hidden = torch.randn(*rows, dim, device=DEVICE).to(dtype)
    residual = torch.randn(*rows, dim, device=DEVICE) if with_residual else None
    weight, bias = torch.randn(2, dim, device=DEVICE).unbind()
    projection = torch.randn(OUT, dim, device=DEVICE) / dim**0.5
    return [hidden, residual, weight, bias if with_bias else None, projection]


def composed(hidden, residual, weight, bias, projection):
    """Run the operations one after the other."""
    normed, total = add_norm(hidden, residual, weight, bias)
    return normed @ projection.to(normed.dtype).mT, total


def run(function, inputs, seeds=None, used=(True, True)):
    """Outputs and gradients of whatever is a tensor."""
    leaves = [None if v is None else v.detach().requires_grad_() for v in inputs]
    outputs = function(*leaves)
    seeds = seeds or [torch.randn_like(v) for v in outputs]
    chosen = [i for i in (0, 1) if used[i]]
    gradients = torch.autograd.grad(
        [outputs[i] for i in chosen],
        [v for v in leaves if v is not None],
        [seeds[i].to(outputs[i].dtype) for i in chosen],
        materialize_grads=True,
    )
    return [*outputs, *gradients], seeds


@pytest.mark.parametrize("used", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("with_bias", [False, True], ids=["rms", "layer"])
@pytest.mark.parametrize("with_residual", [False, True])
def test_equals_its_operations(backend, monkeypatch, with_residual, with_bias, dtype, used):
    inputs = arguments(with_residual=with_residual, with_bias=with_bias, dtype=dtype)
    got, seeds = run(norm_project, inputs, used=used)
    monkeypatch.setenv("FASTVIM_BACKEND", "torch")
    exact = [None if v is None else v.double() for v in inputs]
    want, _ = run(composed, exact, seeds, used)
    for index, (a, b) in enumerate(zip(got, want, strict=True)):
        assert a.shape == b.shape
        error = (a - b).norm() / b.norm().clamp(min=1e-9)
        assert error < (1e-5 if dtype == FP32 else 1e-2), f"{index}: {error}"


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("with_bias", [False, True], ids=["rms", "layer"])
def test_gradients_are_those_of_finite_differences(gradcheck, with_residual, with_bias):
    inputs = arguments(with_residual=with_residual, with_bias=with_bias, rows=(2,), dim=4)
    present = [v is not None for v in inputs]

    def of_present(*values):
        given = iter(values)
        return norm_project(*(next(given) if there else None for there in present))

    gradcheck(of_present, [v for v in inputs if v is not None])


@pytest.mark.parametrize("dtype", [FP32, BF16, torch.float64], ids=["fp32", "bf16", "fp64"])
@pytest.mark.parametrize("with_bias", [False, True], ids=["rms", "layer"])
@pytest.mark.parametrize("with_residual", [False, True])
def test_is_well_registered(backend, with_residual, with_bias, dtype):
    if backend == "triton" and dtype == torch.float64:
        pytest.skip("the kernels do not compute in float64")
    exact = torch.promote_types(dtype, FP32)
    dtypes = (dtype, exact, exact, exact, dtype)
    inputs = arguments(with_residual=with_residual, with_bias=with_bias)
    inputs = [None if v is None else v.to(d) for v, d in zip(inputs, dtypes, strict=True)]
    only = {"test_utils": ["test_schema", "test_faketensor"]}
    forward, backward = torch.ops.fastvim.add_norm, torch.ops.fastvim.add_norm_backward
    torch.library.opcheck(forward.default, (*inputs, 1e-5), **only)
    projected, total, stats = forward(*inputs, 1e-5)
    for dtotal in (None, torch.randn_like(total)):
        given = (torch.randn_like(projected), dtotal, total, stats, *inputs[2:], dtype)
        torch.library.opcheck(backward.default, (*given, with_residual), **only)


def test_the_product_is_in_autocast_s_dtype(backend):
    inputs = arguments()
    with torch.autocast(DEVICE, BF16):
        projected, total = norm_project(*inputs)
    assert (projected.dtype, total.dtype) == (BF16, FP32)
    want, same = norm_project(*inputs)
    assert (want.dtype, same.dtype) == (FP32, FP32)
    assert (projected - want).norm() / want.norm() < 1e-2
    assert torch.equal(total, same)


def test_keeps_no_normalised_tokens(backend):
    inputs = [None if v is None else v.requires_grad_() for v in arguments(dtype=BF16)]
    kept = []
    with saved_tensors_hooks(lambda v: kept.append(v) or v, lambda v: v):
        _, total = norm_project(*inputs)
    of_tokens = [v for v in kept if v.shape == total.shape]
    assert [v.dtype for v in of_tokens] == [FP32]
    assert of_tokens[0].data_ptr() == total.data_ptr()


def test_same_bits_every_time(backend):
    inputs = arguments(dtype=BF16, with_bias=True)
    first, seeds = run(norm_project, inputs)
    second, _ = run(norm_project, inputs, seeds)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
