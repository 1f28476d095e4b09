"""add_norm against float64 arithmetic written out."""

import pytest
import torch
from fastvim_kernels import add_norm

EPS = 1e-5

pytestmark = pytest.mark.usefixtures("cpu_backend")


def expected(hidden, residual, weight, bias):
    total = hidden if residual is None else hidden + residual
    centred = total if bias is None else total - total.mean(-1, keepdim=True)
    normed = centred / (centred.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * weight
    return (normed if bias is None else normed + bias), total


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("with_bias", [False, True], ids=["rms", "layer"])
def test_matches_float64(with_residual, with_bias):
    torch.manual_seed(0)
    shape = (2, 3, 5, 12)
    inputs = [torch.randn(shape), torch.randn(shape) if with_residual else None]
    inputs += [torch.randn(12), torch.randn(12) if with_bias else None]
    inputs = [None if v is None else v.requires_grad_() for v in inputs]
    exact = [None if v is None else v.detach().double().requires_grad_() for v in inputs]
    outputs, truth = add_norm(*inputs, eps=EPS), expected(*exact)
    seeds = [torch.randn(shape), torch.randn(shape)]
    torch.autograd.backward(outputs, seeds)
    torch.autograd.backward(truth, [seed.double() for seed in seeds])
    for got, want in zip(outputs, truth, strict=True):
        assert (got - want).abs().max() < 1e-5 * want.abs().max()
    for got, want in zip(inputs, exact, strict=True):
        if want is not None:
            assert (got.grad - want.grad).abs().max() < 1e-5 * want.grad.abs().max()


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("with_bias", [False, True], ids=["rms", "layer"])
def test_gradients_are_those_of_finite_differences(gradcheck, with_residual, with_bias):
    torch.manual_seed(0)
    given = [torch.randn(2, 4), torch.randn(2, 4), torch.randn(4), torch.randn(4)]
    names = ["hidden", *["residual"] * with_residual, "weight", *["bias"] * with_bias]
    absent = dict.fromkeys(("residual", "bias"))
    inputs = dict(zip(("hidden", "residual", "weight", "bias"), given, strict=True))

    def by_name(*values):
        return add_norm(**absent | dict(zip(names, values, strict=True)))

    gradcheck(by_name, [inputs[n] for n in names])


@pytest.mark.parametrize("value", [0.0, 1e4, 1e18], ids=str)
@pytest.mark.parametrize("with_bias", [False, True], ids=["rms", "layer"])
def test_rows_of_one_value_stay_finite(with_bias, value):
    hidden = torch.full((3, 8), value).requires_grad_()
    weight, bias = torch.ones(8), torch.zeros(8) if with_bias else None
    normed, total = add_norm(hidden, None, weight, bias)
    (normed.sum() + total.sum()).backward()
    assert normed.isfinite().all()
    assert hidden.grad.isfinite().all()


def test_residual_stays_float32():
    hidden = torch.randn(2, 4, 8).bfloat16()
    normed, residual = add_norm(hidden, torch.full((2, 4, 8), 1e4), torch.ones(8))
    assert normed.dtype == torch.bfloat16
    assert residual.dtype == torch.float32
    assert torch.equal(residual, hidden.float() + 1e4)
