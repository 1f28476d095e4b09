"""expand_norm_gate against float64 arithmetic with explicit repeats."""

import importlib

import pytest
import torch
from fastvim_kernels import expand_norm_gate

GRID = (3, 4, 2)

pytestmark = pytest.mark.usefixtures("cpu_backend")


def expected(y, skipped, z, weight, bias, pool):
    batch, *grid, channel = z.shape
    kept = [size for axis, size in enumerate(grid) if axis not in pool]
    full = y.reshape(2, batch, *kept, channel)
    for axis in sorted(pool):
        full = full.unsqueeze(axis + 2).repeat_interleave(grid[axis], axis + 2)
    out = (full[0] + full[1] + skipped) / 2
    if weight is not None:
        out = out - out.mean(-1, keepdim=True)
        out = out / (out.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias
    return out * z / (1 + torch.exp(-z))


@pytest.mark.parametrize("piece", [1 << 19, 70], ids=["whole", "pieces"])
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("pool", [(), (0,), (1,), (2,), (0, 1), (1, 2)])
def test_matches_float64(monkeypatch, piece, normed, pool):
    module = importlib.import_module("fastvim_kernels.pieces")
    monkeypatch.setattr(module, "piece_elements", lambda device: piece)
    torch.manual_seed(0)
    batch, channel = 3, 8
    steps = torch.Size(size for axis, size in enumerate(GRID) if axis not in pool).numel()
    shapes = [(2, batch, steps, channel), (batch, *GRID, channel), (batch, *GRID, channel)]
    arguments = [torch.randn(shape).requires_grad_() for shape in shapes]
    arguments += [torch.randn(channel).requires_grad_() if normed else None for _ in range(2)]
    exact = [None if v is None else v.detach().double().requires_grad_() for v in arguments]
    out, truth = expand_norm_gate(*arguments, pool), expected(*exact, pool)
    seed = torch.randn_like(out)
    out.backward(seed)
    truth.backward(seed.double())
    assert (out - truth).abs().max() < 1e-5 * truth.abs().max()
    for got, want in zip(arguments, exact, strict=True):
        if want is not None:
            assert (got.grad - want.grad).abs().max() < 1e-5 * want.grad.abs().max()


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("pool", [(), (0,), (1,)])
def test_gradients_are_those_of_finite_differences(gradcheck, normed, pool):
    torch.manual_seed(0)
    steps = torch.Size(size for axis, size in enumerate((2, 3)) if axis not in pool).numel()
    inputs = [torch.randn(2, 1, steps, 4), torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)]
    inputs += [torch.randn(4), torch.randn(4)] if normed else []

    def call(y, skipped, z, weight=None, bias=None):
        return expand_norm_gate(y, skipped, z, weight, bias, pool)

    gradcheck(call, inputs)


@pytest.mark.parametrize("value", [0.0, 1e4, -1e4], ids=str)
def test_rows_of_one_value_stay_finite(value):
    y, skipped, z = (torch.full(shape, value) for shape in ((2, 1, 3, 8), *[(1, 3, 4, 8)] * 2))
    arguments = [v.requires_grad_() for v in (y, skipped, z, torch.ones(8), torch.ones(8))]
    out = expand_norm_gate(*arguments, (1,))
    out.sum().backward()
    assert all(v.isfinite().all() for v in (out, *(v.grad for v in arguments)))


def test_result_lies_in_memory_as_the_gate_does():
    torch.manual_seed(0)
    y, skipped, z = torch.randn(2, 3, 4, 8), torch.randn(3, 4, 5, 8), torch.randn(3, 5, 4, 8)
    norm = [torch.randn(8), torch.randn(8)]
    permuted = z.transpose(1, 2)
    out = expand_norm_gate(y, skipped, permuted, *norm, (1,))
    assert out.stride() == permuted.stride()
    assert torch.equal(out, expand_norm_gate(y, skipped, permuted.contiguous(), *norm, (1,)))
