"""expand_norm_gate's Triton kernels against float64 arithmetic with explicit repeats."""

import importlib
import os

import pytest
import torch
from fastvim_kernels import expand_norm_gate

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
EPS = 1e-5

pytestmark = [
    pytest.mark.usefixtures("triton_backend"),
    pytest.mark.skipif(
        not CUDA and os.environ.get("TRITON_INTERPRET") != "1",
        reason="needs a CUDA device or TRITON_INTERPRET=1",
    ),
]

# (batch, grid, pool, channels, dtype, normed, order of the grid's axes in memory)
CASES = [
    (1, (5, 7), (1,), 40, FP32, True, (0, 1)),
    (2, (5, 7), (1,), 40, FP32, True, (1, 0)),
    (2, (5, 7), (0,), 40, FP32, False, (1, 0)),
    (2, (5, 3), (0, 1), 192, FP32, True, (0, 1)),
    (1, (7,), (), 40, FP32, True, (0,)),
    (2, (3, 4), (), 40, FP32, False, (1, 0)),
    (2, (3, 5, 2), (1,), 40, BF16, True, (1, 0, 2)),
    (2, (2, 3, 5), (2,), 40, BF16, True, (1, 2, 0)),
    (1, (3, 5, 2), (0,), 384, BF16, True, (0, 1, 2)),
    (2, (3, 3, 2), (0, 1), 40, FP32, True, (1, 2, 0)),
    (2, (3, 2, 3), (1, 2), 40, FP32, False, (2, 0, 1)),
    (1, (2, 3, 2), (0, 1, 2), 40, FP32, True, (2, 1, 0)),
    (1, (2, 3, 2), (), 40, FP32, True, (1, 2, 0)),
    (1, (2, 3), (1,), 768, BF16, True, (0, 1)),
    (1, (2, 3), (1,), 1000, FP32, True, (0, 1)),
    (1, (2, 3), (1,), 2560, BF16, True, (0, 1)),
    (1, (2, 3), (1,), 192, FP16, True, (0, 1)),
]
if CUDA:
    CASES += [
        (128, (14, 14), (1,), 768, BF16, True, (0, 1)),
        (128, (14, 14), (1,), 384, BF16, True, (1, 0)),
        (3, (61, 67), (1,), 768, BF16, True, (1, 0)),
        (2, (32, 32, 5), (1,), 1536, BF16, True, (1, 0, 2)),
        (2, (32, 32, 8), (0, 1), 768, BF16, True, (0, 1, 2)),
        (1, (8, 33, 31), (2,), 768, FP32, True, (0, 2, 1)),
        (2, (4001,), (), 2048, BF16, True, (0,)),
        (2, (40, 41), (1,), 2560, BF16, True, (0, 1)),
        (2, (40, 41), (1,), 1024, FP16, False, (1, 0)),
        (1, (128, 128), (1,), 384, FP32, True, (0, 1)),
        (512, (13, 17), (1,), 64, BF16, True, (1, 0)),
        (512, (14, 14), (1,), 64, FP16, True, (0, 1)),
        (2, (14, 14, 64), (1,), 192, BF16, True, (1, 0, 2)),
        (1, (2048, 2048), (1,), 64, FP32, True, (1, 0)),  # tokens as many as the image's pixels
    ]


def expected(y, skipped, z, weight, bias, pool):
    batch, *grid, channel = z.shape
    kept = [size for axis, size in enumerate(grid) if axis not in pool]
    full = y.reshape(2, batch, *kept, channel)
    for axis in sorted(pool):
        full = full.unsqueeze(axis + 2).repeat_interleave(grid[axis], axis + 2)
    out = (full[0] + full[1] + skipped) / 2
    if weight is not None:
        out = out - out.mean(-1, keepdim=True)
        out = out / (out.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * weight + bias
    return out * z * torch.sigmoid(z)


def inputs(batch, grid, pool, channel, dtype, normed, order, scale=1.0):
    torch.manual_seed(0)
    steps = torch.Size(size for axis, size in enumerate(grid) if axis not in pool).numel()

    def tokens():
        v = torch.randn(batch, *(grid[axis] for axis in order), channel, device=DEVICE) * scale
        return v.to(dtype).permute(0, *(order.index(axis) + 1 for axis in range(len(grid))), -1)

    y = (torch.randn(2, batch, steps, channel, device=DEVICE) * scale).to(dtype)
    norm = [torch.randn(channel, device=DEVICE) if normed else None for _ in range(2)]
    arguments = [y, tokens(), tokens(), *norm]
    return [None if v is None else v.requires_grad_() for v in arguments], tokens()


def check(arguments, seed, pool):
    exact = [None if v is None else v.detach().double().requires_grad_() for v in arguments]
    out, truth = expand_norm_gate(*arguments, pool, EPS), expected(*exact, pool)
    assert out.shape == seed.shape
    assert out.stride() == arguments[2].stride()
    limit = 1e-3 if out.dtype == FP32 else 1e-2
    gradients = torch.autograd.grad(out, [v for v in arguments if v is not None], seed)
    truth.backward(seed.double())
    close([out, *gradients], [truth, *(v.grad for v in exact if v is not None)], limit)


def close(gots, wants, limit):
    for index, (got, want) in enumerate(zip(gots, wants, strict=True)):
        error = (got - want).abs().max() / want.abs().max()
        assert error < limit, (index, error)


@pytest.mark.parametrize(("batch", "grid", "pool", "channel", "dtype", "normed", "order"), CASES)
def test_matches_float64(batch, grid, pool, channel, dtype, normed, order):
    arguments, seed = inputs(batch, grid, pool, channel, dtype, normed, order)
    check(arguments, seed, pool)


@pytest.mark.parametrize(("forward", "backward"), [(1, 1), (100, 100)])
@pytest.mark.parametrize("pool", [(1,), ()])
def test_any_division_of_the_work(monkeypatch, forward, backward, pool):
    """One work item for all tokens of a step, and as many as there can be."""
    module = importlib.import_module("fastvim_kernels.gpu.expand_norm_gate")
    monkeypatch.setattr(module, "FORWARD_ITEMS", forward)
    monkeypatch.setattr(module, "BACKWARD_ITEMS", backward)
    arguments, seed = inputs(2, (2, 13), pool, 40, FP32, True, (1, 0))
    check(arguments, seed, pool)


def test_halves_of_one_tensor_and_a_seed_of_another_order():
    torch.manual_seed(0)
    both = torch.randn(2, 3, 5, 80, device=DEVICE)
    skipped, z = (v.requires_grad_() for v in both.chunk(2, -1))
    arguments, _ = inputs(2, (3, 5), (1,), 40, FP32, True, (0, 1))
    arguments = [arguments[0], skipped, z, *arguments[3:]]
    out = expand_norm_gate(*arguments, (1,), EPS)
    exact = [v.detach().double().requires_grad_() for v in arguments]
    truth = expected(*exact, (1,))
    seed = torch.randn(2, 5, 3, 40, device=DEVICE).transpose(1, 2)
    gradients = torch.autograd.grad(out, arguments, seed)
    truth.backward(seed.double())
    close([out, *gradients], [truth, *(v.grad for v in exact)], 1e-3)


def test_seed_without_strides():
    arguments, _ = inputs(1, (3, 5), (1,), 40, FP32, True, (0, 1))
    exact = [v.detach().double().requires_grad_() for v in arguments]
    gradients = torch.autograd.grad(expand_norm_gate(*arguments, (1,), EPS).sum(), arguments)
    expected(*exact, (1,)).sum().backward()
    close(gradients, [v.grad for v in exact], 1e-3)


def test_large_activations():
    arguments, seed = inputs(1, (3, 5), (1,), 192, FP32, True, (0, 1), scale=1e3)
    check(arguments, seed, (1,))


@pytest.mark.parametrize("value", [0.0, 1e4, -1e4], ids=str)
def test_rows_of_one_value_stay_finite(value):
    arguments, seed = inputs(1, (2, 3), (1,), 40, FP32, True, (0, 1))
    filled = [torch.full_like(v, value) for v in arguments[:3]]
    arguments = [v.detach().requires_grad_() for v in (*filled, *arguments[3:])]
    out = expand_norm_gate(*arguments, (1,))
    gradients = torch.autograd.grad(out, arguments, seed)
    assert all(v.isfinite().all() for v in (out, *gradients))


@pytest.mark.skipif(not CUDA, reason="too large for Triton's interpreter")
@pytest.mark.parametrize("permuted", [False, True])
def test_more_elements_than_32_bits_count(permuted):
    """The last image's results are those of this image alone."""
    both = torch.randn(512, 41, 40, 2 * 2560, dtype=BF16, device=DEVICE)
    z = both[..., 2560:].transpose(1, 2) if permuted else both[..., 2560:]
    skipped = torch.empty_like(z).copy_(z)
    y = torch.randn(2, 512, z.shape[1], 2560, dtype=BF16, device=DEVICE)
    norm = [torch.randn(2560, device=DEVICE) for _ in range(2)]
    results = []
    for images in (slice(None), slice(-1, None)):
        leaves = [v.detach().requires_grad_() for v in (y[:, images], skipped[images], z[images])]
        out = expand_norm_gate(*leaves, *norm, (1,))
        dy, dskipped, dz = torch.autograd.grad(out, leaves, out.detach())
        results.append([v.clone() for v in (out[-1], dy[:, -1], dskipped[-1], dz[-1])])
        del leaves, out, dy, dskipped, dz
    close(*results, 1e-2)


def test_same_bits_every_time():
    batch, grid = (32, (17, 19)) if CUDA else (2, (3, 5))
    arguments, seed = inputs(batch, grid, (1,), 40, BF16, True, (0, 1))
    runs = [
        torch.autograd.grad(expand_norm_gate(*arguments, (1,)), arguments, seed) for _ in range(2)
    ]
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_pooled_axes_must_be_adjacent():
    arguments, _ = inputs(1, (2, 3, 2), (0, 2), 40, FP32, True, (0, 1, 2))
    with pytest.raises(ValueError, match="adjacent"):
        expand_norm_gate(*arguments, (0, 2))
