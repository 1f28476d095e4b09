"""conv_pool's Triton kernels against the formula in float64; in the interpreter without a GPU."""

import os

import pytest
import torch
from fastvim_kernels import conv_pool

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA device or TRITON_INTERPRET=1", allow_module_level=True)
kernels = pytest.importorskip("fastvim_kernels.gpu.conv_pool")

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16


pytestmark = pytest.mark.usefixtures("triton_backend")


def expected(x, weight, bias, skip, pool, method):
    batch, *grid, channel = x.shape
    tokens = torch.nn.functional.pad(x.reshape(batch, -1, channel), (0, 0, 3, 3))
    length = tokens.shape[1] - 6
    pooled, skipped = [], 0
    for direction in (0, 1):
        value = bias[direction]
        for k in range(4):
            start = k if direction == 0 else 6 - k
            value = value + weight[direction, :, k] * tokens[:, start : start + length]
        u = torch.nn.functional.silu(value).reshape(batch, *grid, channel)
        skipped = skipped + skip[direction] * u
        for axis in sorted(pool, reverse=True):
            u = u.mean(axis + 1) if method == "mean" else u.max(axis + 1).values
        pooled.append(u.reshape(batch, -1, channel))
    return torch.stack(pooled), skipped


def inputs(grid, channel=12, batch=1, dtype=FP32, permuted=None, scale=1.0):
    """Tokens, in memory with two axes changed over, and parameters."""
    torch.manual_seed(0)
    shapes = [(batch, *grid, channel), (2, channel, 4), (2, channel), (2, channel)]
    x, *rest = [torch.randn(shape, device=DEVICE) for shape in shapes]
    x = (x * scale).to(dtype)
    if permuted:
        x = x.transpose(*permuted).contiguous().transpose(*permuted)
    return [x, *rest]


def check(arguments, pool, method="mean", seeds=None):
    dtype = arguments[0].dtype
    given = [v.detach().requires_grad_() for v in arguments]
    exact = [v.detach().double().requires_grad_() for v in arguments]
    outputs, truth = conv_pool(*given, pool, method), expected(*exact, pool, method)
    seeds = seeds or [torch.randn_like(v).to(dtype) for v in truth]
    torch.autograd.backward(outputs, seeds)
    torch.autograd.backward(truth, [seed.double() for seed in seeds])
    got = [*outputs, *(v.grad for v in given)]
    want = [*truth, *(v.grad for v in exact)]
    for name, a, b in zip(
        ("pooled", "skipped", "dx", "dweight", "dbias", "dskip"), got, want, strict=True
    ):
        assert a.shape == b.shape
        error = (a - b).abs().max() / b.abs().max()
        assert error < (1e-2 if dtype != FP32 else 1e-4), f"{name}: {error}"
    assert outputs[0].is_contiguous()
    assert outputs[1].stride() == torch.zeros_like(arguments[0]).stride()


CASES = [
    # rows one after the other, chunks of 8, 4, 5 and 3 tokens
    ((2, 8), (1,), "mean", FP32, None),
    ((3, 4), (1,), "max", BF16, None),
    ((2, 10, 1), (1,), "mean", FP16, None),
    ((2, 8), (1,), "mean", BF16, (1, 2)),
    ((3, 3), (1,), "max", FP32, (1, 2)),
    ((6,), (0,), "max", FP32, None),
    # three axes, of which none or two follow one another in memory
    ((2, 2, 4), (2,), "mean", BF16, (1, 2)),
    ((2, 2, 4), (1, 2), "mean", FP32, (1, 2)),
    ((2, 2, 3), (0, 1, 2), "max", FP32, (1, 2)),
    # nothing that divides the lines, or lines of one or two tokens
    ((1, 17), (1,), "mean", BF16, (1, 2)),
    ((3, 2), (1,), "max", FP32, None),
    ((1, 1), (1,), "mean", FP32, None),
    # no pooling
    ((6,), (), "mean", BF16, None),
    ((3, 4), (), "max", FP32, (1, 2)),
    # pooled tokens apart in groups of 3 to 8: one run, lines of one group
    ((2, 3, 3), (1,), "mean", FP32, None),
    ((3, 2, 4), (1,), "max", BF16, (1, 2)),
    # pooled tokens apart: on a line, two a line, in two segments
    ((4, 3), (0,), "max", FP32, None),
    ((2, 3, 4), (1,), "mean", BF16, (1, 2)),
    ((2, 3, 2), (1,), "mean", FP32, (1, 2)),
    ((1, 2, 9), (1,), "mean", FP16, None),
    ((2, 3, 4), (0, 1), "mean", FP32, (1, 2)),
    ((2, 3, 4), (0,), "max", BF16, (2, 3)),
]
LARGE = [
    ((64, 64, 1), (1,), "mean", BF16, None),
    ((64, 64, 1), (1,), "mean", FP32, (1, 2)),
    ((14, 14), (1,), "mean", BF16, (1, 2)),
    ((14, 14), (1,), "max", FP16, None),
    ((17, 19), (1,), "mean", BF16, None),
    ((196,), (), "mean", BF16, None),
    ((1024,), (), "mean", FP32, None),
    ((14, 14, 8), (1,), "mean", BF16, (1, 2)),
    ((14, 14, 8), (1,), "max", FP32, None),
    ((28, 28, 8), (1,), "mean", BF16, (1, 2)),
    ((14, 14, 5), (1,), "mean", BF16, None),
    ((8, 14, 14), (2,), "mean", BF16, (2, 3)),
    ((14, 14, 5), (1, 2), "max", BF16, (1, 2)),
    ((14, 14, 13), (0, 1), "mean", BF16, None),
]
EXTREMES = [
    (512, (14, 14), 64, (1,), "mean", BF16, None),
    (512, (13, 17), 64, (1,), "max", FP16, (1, 2)),
    (1, (61, 67), 2560, (1,), "mean", FP32, (1, 2)),
    (2, (14, 14, 64), 192, (1,), "mean", BF16, (1, 2)),
    (1, (2048, 2048), 64, (1,), "mean", BF16, None),  # as many tokens as the image has pixels
    (1, (2048, 2048), 64, (1,), "mean", FP32, (1, 2)),
]


@pytest.mark.parametrize(("grid", "pool", "method", "dtype", "permuted"), CASES)
def test_matches_formula(grid, pool, method, dtype, permuted):
    check(inputs(grid, dtype=dtype, permuted=permuted), pool, method)


@pytest.mark.skipif(DEVICE == "cpu", reason="too slow in the interpreter")
@pytest.mark.parametrize("channel", [192, 768])
@pytest.mark.parametrize(("grid", "pool", "method", "dtype", "permuted"), LARGE)
def test_matches_formula_in_models(grid, pool, method, dtype, permuted, channel):
    check(inputs(grid, channel, 3, dtype, permuted), pool, method)


@pytest.mark.skipif(DEVICE == "cpu", reason="too large for Triton's interpreter")
@pytest.mark.parametrize(
    ("batch", "grid", "channel", "pool", "method", "dtype", "permuted"), EXTREMES
)
def test_matches_formula_at_extreme_sizes(batch, grid, channel, pool, method, dtype, permuted):
    check(inputs(grid, channel, batch, dtype, permuted), pool, method)


@pytest.mark.skipif(DEVICE == "cpu", reason="too large for Triton's interpreter")
@pytest.mark.parametrize("permuted", [False, True])
def test_more_elements_than_32_bits_count(permuted):
    """The last image's results are those of this image alone."""
    both = torch.randn(512, 41, 40, 2 * 2560, dtype=BF16, device=DEVICE)
    x = both[..., 2560:].transpose(1, 2) if permuted else both[..., 2560:]
    rest = [v.detach() for v in inputs((1,), 2560)[1:]]
    results = []
    for images in (slice(None), slice(-1, None)):
        leaf = x[images].requires_grad_()
        pooled, skipped = conv_pool(leaf, *rest, (1,))
        torch.autograd.backward([pooled, skipped], [pooled.detach(), skipped.detach()])
        results.append([v.clone() for v in (pooled[:, -1], skipped[-1], leaf.grad[-1])])
        del leaf, pooled, skipped
    for got, want in zip(*results, strict=True):
        assert (got.float() - want.float()).abs().max() < 1e-2 * want.float().abs().max()


@pytest.mark.parametrize(
    ("grid", "pool", "method", "permuted"),
    [((2, 3), (1,), "mean", (1, 2)), ((3, 2), (0,), "max", None), ((4,), (), "mean", None)],
)
def test_same_bits_every_time(grid, pool, method, permuted):
    batch, channel = 2, 4
    if DEVICE == "cuda":  # enough for programs that may end in any order
        batch, channel, grid = 32, 384, tuple(7 * size for size in grid)
    arguments = [v.requires_grad_() for v in inputs(grid, channel, batch, BF16, permuted)]
    runs = []
    for _ in range(2):
        loss = sum(v.float().square().sum() for v in conv_pool(*arguments, pool, method))
        runs.append(torch.autograd.grad(loss, arguments))
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_several_images():
    check(inputs((2, 3), 5, 3, BF16), (1,))
    check(inputs((2, 3), 4, 2, BF16), (0,))


@pytest.mark.parametrize("channel", [1, 136])
def test_any_number_of_channels(channel):
    check(inputs((2, 4), channel, dtype=BF16), (1,))


@pytest.mark.parametrize(
    ("grid", "pool", "method"),
    [
        ((2, 16), (1,), "mean"),
        ((17,), (0,), "max"),
        ((11,), (), "mean"),
        ((5, 2), (0,), "mean"),
        ((4, 3), (0,), "mean"),
        ((2, 4, 3), (1,), "max"),
    ],
)
def test_rows_in_parts(monkeypatch, grid, pool, method):
    monkeypatch.setattr(kernels, "SHORTEST_PART", 2)
    monkeypatch.setattr(kernels, "processors", lambda device: 1000)
    check(inputs(grid), pool, method)


@pytest.mark.parametrize(
    ("lines", "run"),
    [
        (128 * 3, 56),  # FastVim-T's channels of 128 images: 1536 programs of 1584
        (128 * 6, 98),  # FastVim-S's: so are these
        (128 * 12, 196),  # FastVim-B's: whole images, for two rounds take longer
        (1, 14),  # one image: as many programs as there are rows
    ],
)
def test_runs_fill_a_card_once(lines, run):
    assert kernels._quickest_run(lines, 196, 14, 1584) == run


def test_half_of_wider_tokens():
    x, *rest = inputs((2, 4), 24, dtype=BF16)
    check([x[..., 12:], *(v[:, :12] for v in rest)], (1,))


def test_spread_out_gradients():
    arguments = inputs((2, 4))
    one = torch.ones((), device=DEVICE)
    seeds = [one.expand(2, 1, 2, 12), one.expand(1, 2, 4, 12)]
    check(arguments, (1,), seeds=seeds)


@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_large_values(dtype):
    check(inputs((2, 4), dtype=dtype, scale=1e3), (1,))


@pytest.mark.parametrize(("grid", "pool"), [((2, 4), (1,)), ((4, 3), (0,))])
def test_first_of_equal_maxima_gets_the_gradient(grid, pool):
    x, weight, bias, skip = inputs(grid, 2)
    weight = torch.zeros_like(weight)
    weight[..., -1] = 1
    x = torch.ones_like(x).requires_grad_()
    conv_pool(x, weight, bias * 0, skip, pool, "max")[0].sum().backward()
    first = x.grad.movedim(1 + pool[0], 0)
    assert (first[0] > 0).all()
    assert (first[1:] == 0).all()
