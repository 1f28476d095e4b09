"""add_norm's Triton kernels against float64 arithmetic written out."""

import os

import pytest
import torch
from fastvim_kernels import add_norm

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

# (rows, width, dtype, with residual, with bias)
CASES = [
    ((1,), 40, FP32, True, False),
    ((5, 11), 40, FP32, True, True),  # more rows than the interpreter's programs take at once
    ((2, 3, 9), 192, FP32, False, False),
    ((3, 3), 384, BF16, True, False),
    ((3, 3), 576, BF16, False, True),
    ((2, 3), 1280, FP32, True, True),
    ((2, 3), 192, FP16, True, False),
]
if CUDA:
    CASES += [
        ((128, 14, 14), 384, BF16, True, False),
        ((128, 14, 14), 384, BF16, False, False),
        ((16, 4096), 192, FP32, True, False),
        ((7, 1111), 768, BF16, True, True),
        ((3, 4001), 1280, FP16, True, False),
        ((3, 4001), 1000, BF16, True, True),
        ((512, 197), 64, BF16, True, False),
        ((512, 14, 14), 2560, BF16, True, False),
        ((1, 2048, 2048), 64, FP32, True, True),  # as many tokens as such an image has pixels
        ((1, 128, 128, 64), 192, FP16, True, False),  # 64 channels at 2048 px
    ]


def expected(hidden, residual, weight, bias):
    total = hidden if residual is None else hidden + residual
    centred = total if bias is None else total - total.mean(-1, keepdim=True)
    normed = centred / (centred.pow(2).mean(-1, keepdim=True) + EPS).sqrt() * weight
    return (normed if bias is None else normed + bias), total


def inputs(rows, width, dtype, with_residual, with_bias, scale=1.0):
    torch.manual_seed(0)
    hidden = (torch.randn(*rows, width, device=DEVICE) * scale).to(dtype)
    residual = torch.randn(*rows, width, device=DEVICE) * scale + 1 if with_residual else None
    weight = torch.randn(width, device=DEVICE)
    bias = torch.randn(width, device=DEVICE) if with_bias else None
    return [None if v is None else v.requires_grad_() for v in (hidden, residual, weight, bias)]


def check(arguments, used=(True, True)):
    """Compare the outputs, and the gradients of the outputs that are `used`."""
    exact = [None if v is None else v.detach().double().requires_grad_() for v in arguments]
    outputs, truth = add_norm(*arguments, eps=EPS), expected(*exact)
    limit = 1e-3 if arguments[0].dtype == FP32 else 1e-2
    seeds = [torch.randn_like(v) for v in outputs]
    chosen = [index for index in (0, 1) if used[index]]
    torch.autograd.backward([outputs[i] for i in chosen], [seeds[i] for i in chosen])
    torch.autograd.backward([truth[i] for i in chosen], [seeds[i].double() for i in chosen])
    close(outputs, truth, limit)
    pairs = [(v.grad, w.grad) for v, w in zip(arguments, exact, strict=True) if w is not None]
    pairs = [(got, want) for got, want in pairs if want is not None]
    close(*zip(*pairs, strict=True), limit)


def close(gots, wants, limit):
    for index, (got, want) in enumerate(zip(gots, wants, strict=True)):
        error = (got - want).abs().max() / want.abs().max()
        assert error < limit, (index, error)


@pytest.mark.parametrize(("rows", "width", "dtype", "with_residual", "with_bias"), CASES)
def test_matches_float64(rows, width, dtype, with_residual, with_bias):
    check(inputs(rows, width, dtype, with_residual, with_bias))


@pytest.mark.parametrize("used", [(True, False), (False, True)], ids=["normed", "total"])
def test_one_output_unused(used):
    arguments = inputs((2, 3), 40, FP32, True, False)
    if not used[0]:
        arguments[2] = arguments[2].detach()  # has no influence
    check(arguments, used)


def test_permuted_rows():
    hidden, residual, weight, _ = inputs((2, 3, 4), 40, FP32, True, False)
    got = add_norm(hidden.transpose(1, 2), residual.transpose(1, 2), weight)
    want = add_norm(hidden, residual, weight)
    for one, other in zip(got, want, strict=True):
        assert torch.equal(one, other.transpose(1, 2))


@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_a_residual_that_all_images_share(dtype):
    """As positions are; its gradient is the sum over the images."""
    hidden, _, *norm = inputs((3, 2, 5), 40, dtype, False, True)
    positions = torch.randn(1, 2, 5, 40, device=DEVICE).requires_grad_()
    repeated = positions.detach().repeat(3, 1, 1, 1).requires_grad_()
    results, gradients = [], []
    for residual, leaf in ((positions.expand_as(hidden), positions), (repeated, repeated)):
        outputs = add_norm(hidden, residual, *norm)
        results.append(outputs)
        gradients.append(torch.autograd.grad(sum(v.float().sum() for v in outputs), [leaf])[0])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    torch.testing.assert_close(gradients[0], gradients[1].sum(0, keepdim=True))


@pytest.mark.parametrize("with_bias", [False, True], ids=["rms", "layer"])
def test_large_activations(with_bias):
    check(inputs((2, 3), 192, FP32, True, with_bias, scale=1e3))


@pytest.mark.parametrize("value", [0.0, 1e4, 1e18], ids=str)
@pytest.mark.parametrize("with_bias", [False, True], ids=["rms", "layer"])
def test_rows_of_one_value_stay_finite(with_bias, value):
    hidden, _, weight, bias = inputs((5,), 40, FP32, False, with_bias)
    hidden = torch.full_like(hidden, value).requires_grad_()
    normed, total = add_norm(hidden, None, weight, bias)
    (gradient,) = torch.autograd.grad(normed.sum() + total.sum(), [hidden])
    assert normed.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.skipif(not CUDA, reason="too large for Triton's interpreter")
def test_more_elements_than_32_bits_count():
    """The last image's results are those of this image alone."""
    hidden, residual = torch.randn(2, 512, 40, 41, 2560, dtype=BF16, device=DEVICE)
    weight = torch.randn(2560, device=DEVICE)
    results = []
    for images in (slice(None), slice(-1, None)):
        leaves = [v[images].requires_grad_() for v in (hidden, residual)]
        normed, total = add_norm(*leaves, weight)
        torch.autograd.backward([normed, total], [normed.detach(), total.detach()])
        results.append([v[-1].clone() for v in (normed, total, *(v.grad for v in leaves))])
        del leaves, normed, total
    close(*results, 1e-2)


@pytest.mark.parametrize("with_bias", [False, True], ids=["rms", "layer"])
def test_same_bits_every_time(with_bias):
    rows = (128, 197) if CUDA else (2, 3)
    arguments = [v for v in inputs(rows, 192, BF16, True, with_bias) if v is not None]
    runs = []
    for _ in range(2):
        normed, total = add_norm(*arguments)
        loss = normed.float().square().sum() + total.square().sum()
        runs.append(torch.autograd.grad(loss, arguments))
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))
