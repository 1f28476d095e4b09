"""conv_pool against a loop over tokens and taps in float64."""

import importlib
import itertools

import pytest
import torch
from fastvim_kernels import conv_pool

GRID = (3, 4, 2)
POOLS = [(), (0,), (1,), (2,), (0, 1), (1, 2)]

pytestmark = pytest.mark.usefixtures("cpu_backend")


def expected(x, weight, bias, skip, pool, method):
    batch, *grid, channel = x.shape
    tokens = x.reshape(batch, -1, channel)
    length, taps = tokens.shape[1], weight.shape[-1]
    pooled, skipped = [], 0
    for direction in (0, 1):
        rows = []
        for t in range(length):
            value = bias[direction].expand(batch, channel)
            for k in range(taps):
                back = taps - 1 - k
                source = t - back if direction == 0 else t + back
                if 0 <= source < length:
                    value = value + weight[direction, :, k] * tokens[:, source]
            rows.append(value / (1 + torch.exp(-value)))
        u = torch.stack(rows, 1).reshape(batch, *grid, channel)
        skipped = skipped + skip[direction] * u
        for axis in sorted(pool, reverse=True):
            u = u.mean(axis + 1) if method == "mean" else u.max(axis + 1).values
        pooled.append(u.reshape(batch, -1, channel))
    return torch.stack(pooled), skipped


def inputs(batch=3, grid=GRID, channel=8):
    torch.manual_seed(0)
    shapes = [(batch, *grid, channel), (2, channel, 4), (2, channel), (2, channel)]
    return [torch.randn(shape).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("piece", [1 << 19, 70], ids=["whole", "pieces"])
@pytest.mark.parametrize(("pool", "method"), [*itertools.product(POOLS, ("mean", "max"))])
def test_matches_loop(monkeypatch, piece, pool, method):
    module = importlib.import_module("fastvim_kernels.pieces")
    monkeypatch.setattr(module, "piece_elements", lambda device: piece)
    arguments = inputs()
    exact = [v.detach().double().requires_grad_() for v in arguments]
    outputs = conv_pool(*arguments, pool, method)
    truth = expected(*exact, pool, method)
    seeds = [torch.randn_like(v) for v in outputs]
    torch.autograd.backward(outputs, seeds)
    torch.autograd.backward(truth, [seed.double() for seed in seeds])
    for got, want in zip(outputs, truth, strict=True):
        assert got.shape == want.shape
        assert (got - want).abs().max() < 1e-5 * want.abs().max()
    for got, want in zip(arguments, exact, strict=True):
        assert (got.grad - want.grad).abs().max() < 1e-5 * want.grad.abs().max()


@pytest.mark.parametrize(("pool", "method"), [((), "mean"), ((1,), "mean"), ((0,), "max")])
def test_gradients_are_those_of_finite_differences(gradcheck, pool, method):
    gradcheck(lambda *values: conv_pool(*values, pool, method), inputs(1, (2, 3), 2))


def test_large_values_stay_finite():
    """SiLU is then zero or the identity."""
    arguments = inputs()
    with torch.no_grad():
        arguments[0].mul_(1e6)
    outputs = conv_pool(*arguments, (1,))
    sum(v.sum() for v in outputs).backward()
    assert all(v.isfinite().all() for v in (*outputs, *(v.grad for v in arguments)))


def test_permuted_grid_is_walked_in_its_logical_order():
    x, *rest = inputs()
    swapped = x.transpose(1, 2)
    for got, want in zip(
        conv_pool(swapped, *rest, (1,)), conv_pool(swapped.contiguous(), *rest, (1,)), strict=True
    ):
        assert torch.equal(got, want)


def test_equal_maxima_share_the_gradient():
    weight, bias, skip = torch.zeros(2, 1, 4), torch.zeros(2, 1), torch.zeros(2, 1)
    weight[..., -1] = 1
    x = torch.ones(1, 1, 4, 1, 1, requires_grad=True)
    pooled, _ = conv_pool(x, weight, bias, skip, (1,), "max")
    pooled.sum().backward()
    assert torch.allclose(x.grad, x.grad.mean().expand_as(x.grad))
    assert x.grad.sum() > 0


def test_shorter_than_the_filter():
    x, weight, bias, skip = inputs(grid=(1, 2, 1))
    pooled, skipped = conv_pool(x, weight, bias, skip, (1,))
    truth = expected(x, weight, bias, skip, (1,), "mean")
    torch.testing.assert_close(pooled, truth[0])
    torch.testing.assert_close(skipped, truth[1])
    pooled.sum().backward()
    assert x.grad.isfinite().all()


def test_gradients_where_the_filter_is_longer(gradcheck):
    x, _, bias, skip = inputs(1, (3, 1), 2)
    gradcheck(lambda *values: conv_pool(*values, (1,)), [x, torch.randn(2, 2, 6), bias, skip])
