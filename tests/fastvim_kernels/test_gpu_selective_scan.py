"""The Triton kernels of selective_scan against the recurrence in float64, gradients included."""

import importlib
import os

import pytest
import torch
import torch.nn.functional as F

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

from fastvim_kernels import selective_scan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = [
    pytest.mark.usefixtures("triton_backend"),
    pytest.mark.skipif(
        DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1",
        reason="needs a GPU or TRITON_INTERPRET=1",
    ),
]
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
NAMES = ("u", "dt", "dt_bias", "A_log", "B", "C")


def module(name):
    return importlib.import_module(f"fastvim_kernels.{name}")


def in_chunks(monkeypatch, chunk, segment=None):
    """Let chunks, and segments if given, have so many steps."""
    for name in ("selective_scan", "gpu.selective_scan"):
        monkeypatch.setattr(module(name), "CHUNK_STEPS", chunk)
    monkeypatch.setattr(module("gpu.selective_scan"), "BACKWARD_UNROLL", 2)
    monkeypatch.setattr(module("gpu.selective_scan"), "FORWARD_UNROLLS", (3, 4))
    monkeypatch.setattr(module("gpu.selective_scan"), "UNROLL", 4)
    if segment is None:
        monkeypatch.setattr(module("gpu.selective_scan"), "FEW", 0)
    else:
        monkeypatch.setattr(module("gpu.selective_scan"), "SEGMENT_STEPS", segment)
        monkeypatch.setattr(module("gpu.selective_scan"), "FEW", 1 << 20)
        monkeypatch.setattr(module("gpu.selective_scan"), "MANY", 1 << 20)


def inputs(batch, steps, channel, dtype=FP32):
    """Leaves, of which B and C are parts of one tensor."""
    torch.manual_seed(0)
    u, dt = torch.randn(2, 2, batch, steps, channel, dtype=dtype, device=DEVICE)
    dt_bias = torch.randn(2, channel, device=DEVICE)
    A_log = torch.randn(2, channel, 16, device=DEVICE)
    rank = 4
    maps = torch.randn(2, batch * steps, rank + 32, dtype=dtype, device=DEVICE)
    _, B, C = maps.split([rank, 16, 16], -1)
    B, C = (v.unflatten(1, (batch, steps)).detach() for v in (B, C))
    return [v.requires_grad_() for v in (u, dt, dt_bias, A_log, B, C)]


def expected(u, dt, dt_bias, A_log, B, C):
    dt, A = F.softplus(dt + dt_bias[:, None, None]), -A_log.exp()
    directions = []
    for d in (0, 1):
        steps = range(u.shape[2]) if d == 0 else reversed(range(u.shape[2]))
        h = u.new_zeros(u.shape[1], *A.shape[1:])
        y = {}
        for t in steps:
            step = dt[d, :, t, :, None]
            h = torch.exp(step * A[d]) * h + step * B[d, :, t, None] * u[d, :, t, :, None]
            y[t] = (h * C[d, :, t, None]).sum(-1)
        directions.append(torch.stack([y[t] for t in sorted(y)], 1))
    return torch.stack(directions)


def check(arguments):
    """Compare the result and all gradients."""
    y = selective_scan(*arguments)
    assert y.is_contiguous()
    assert y.dtype == arguments[0].dtype
    seed = torch.randn(y.shape, dtype=y.dtype, device=DEVICE)
    gradients = torch.autograd.grad(y, arguments, seed)
    exact = [v.detach().double().requires_grad_() for v in arguments]
    truth = expected(*exact)
    truths = torch.autograd.grad(truth, exact, seed.double())
    limit = 1e-4 if y.dtype == FP32 else 1e-2
    for name, got, want in zip(("y", *NAMES), (y, *gradients), (truth, *truths), strict=True):
        assert got.shape == want.shape, name
        error = (got - want).abs().max()
        assert error <= limit * want.abs().max(), (name, error / want.abs().max())
    for got, argument in zip(gradients, arguments, strict=True):
        assert got.dtype == argument.dtype


@pytest.mark.parametrize(
    ("batch", "steps", "channel", "dtype"),
    [(1, 1, 40, FP32), (2, 3, 24, FP32), (1, 7, 16, BF16), (1, 3, 16, FP16)],
)
def test_matches_loop(monkeypatch, batch, steps, channel, dtype):
    in_chunks(monkeypatch, 64)
    check(inputs(batch, steps, channel, dtype))


@pytest.mark.parametrize("few", [1, 4, 6, 10, 1 << 20], ids=["64", "32", "16", "8", "few"])
def test_every_width_of_tile(monkeypatch, few):
    """Channels of a program forward: from all of them up, as warps are wanted."""
    arguments = inputs(1, 3, 40)
    monkeypatch.setattr(module("gpu.selective_scan"), "_processors", lambda device: 1)
    monkeypatch.setattr(module("gpu.selective_scan"), "FEW", few)
    monkeypatch.setattr(module("gpu.selective_scan"), "UNROLL", 2)
    with torch.no_grad():
        y, truth = selective_scan(*arguments), expected(*(v.double() for v in arguments))
    assert (y - truth).abs().max() < 1e-5 * truth.abs().max()


@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_chunks(monkeypatch, dtype):
    in_chunks(monkeypatch, 4)
    check(inputs(1, 9, 16, dtype))


@pytest.mark.parametrize(("batch", "steps"), [(2, 5), (1, 8)])
def test_segments(monkeypatch, batch, steps):
    in_chunks(monkeypatch, 4, segment=4)
    check(inputs(batch, steps, 16))


def test_segments_of_several_chunks(monkeypatch):
    in_chunks(monkeypatch, 2, segment=4)
    check(inputs(1, 7, 8))


def test_programs_that_take_several_images(monkeypatch):
    in_chunks(monkeypatch, 64)
    card = module("gpu.selective_scan")
    monkeypatch.setattr(card, "_processors", lambda device: 1)
    monkeypatch.setattr(card, "BACKWARD_PROGRAMS", 4)
    summed = []
    sum_parts = card.sum_parts
    monkeypatch.setattr(card, "sum_parts", lambda *v: summed.append(len(v[0])) or sum_parts(*v))
    check(inputs(3, 2, 16))
    assert summed[0] == 2, "two programs share three images"


@pytest.mark.parametrize("dtype", [FP32, BF16] if DEVICE == "cuda" else [BF16])
def test_same_bits_every_time(dtype):
    arguments = inputs(*((16, 197, 384) if DEVICE == "cuda" else (1, 2, 24)), dtype)
    runs = []
    for _ in range(2):
        loss = selective_scan(*arguments).float().square().sum()
        runs.append(torch.autograd.grad(loss, arguments))
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_large_steps_and_values(monkeypatch):
    """Beyond 20 softplus is the identity; nothing overflows."""
    in_chunks(monkeypatch, 4)
    arguments = inputs(1, 6, 16)
    with torch.no_grad():
        dt = arguments[1]
        dt.copy_(torch.linspace(-100, 100, dt.numel()).reshape(dt.shape))
        arguments[0].mul_(1e3)
    check(arguments)


def test_shapes_are_as_the_compiler_is_told(monkeypatch):
    in_chunks(monkeypatch, 2)
    arguments = [v.detach() for v in inputs(1, 3, 8)]
    operators, only = torch.ops.fastvim, ["test_schema", "test_faketensor"]
    forward, backward = operators.selective_scan.default, operators.selective_scan_backward.default
    torch.library.opcheck(forward, (*arguments, True), test_utils=only)
    y, starts = forward(*arguments, True)
    torch.library.opcheck(backward, (y, *arguments, starts), test_utils=only)


def test_fewer_states_are_refused():
    u, dt, dt_bias, A_log, B, C = (v.detach() for v in inputs(1, 2, 8))
    with pytest.raises(ValueError, match="16 states"):
        selective_scan(u, dt, dt_bias, A_log[..., :8], B[..., :8], C[..., :8])


on_the_card = pytest.mark.skipif(DEVICE == "cpu", reason="too large for Triton's interpreter")


@on_the_card
@pytest.mark.parametrize("dtype", [FP32, BF16, FP16])
@pytest.mark.parametrize(
    ("batch", "steps", "channel"),
    [
        (128, 14, 384),
        (16, 64, 768),
        (3, 197, 1536),
        (5, 112, 2560),
        (1, 4097, 192),
        (2, 2000, 40),
        (512, 14, 64),
    ],
)
def test_on_the_card(batch, steps, channel, dtype):
    check(inputs(batch, steps, channel, dtype))


@on_the_card
def test_steps_of_twenty_on_the_card():
    arguments = inputs(2, 500, 192)
    with torch.no_grad():
        arguments[1].fill_(20)
    check(arguments)


@on_the_card
@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_the_longest_sequences(dtype):
    """At both ends against a loop that starts so far away that its start is forgotten."""
    arguments = inputs(1, 2048**2 // 16**2 * 8, 64, dtype)
    with torch.no_grad():
        arguments[3].clamp_(min=-1)
    y = selective_scan(*arguments)
    gradients = torch.autograd.grad(y, arguments, torch.randn_like(y))
    assert all(v.isfinite().all() for v in (y, *gradients))
    u, dt, dt_bias, A_log, B, C = (v.detach().double() for v in arguments)
    limit = 1e-3 if dtype == FP32 else 1e-2
    for direction, near, far in ((0, slice(-500, None), -1500), (1, slice(0, 500), 1500)):
        part = slice(far, None) if direction == 0 else slice(0, far)
        cut = [v[:, :, part] for v in (u, dt, B, C)]
        truth = expected(*cut[:2], dt_bias, A_log, *cut[2:])[direction, :, near]
        error = (y[direction, :, near] - truth).abs().max()
        assert error <= limit * truth.abs().max(), direction


@pytest.mark.parametrize("segment", [None, 2], ids=["whole", "segments"])
def test_gradients_of_y_lie_anywhere(monkeypatch, segment):
    """Shared by the directions, apart from one another, or channels first."""
    in_chunks(monkeypatch, 2, segment)
    arguments = [v.detach() for v in inputs(2, 5, 8)]
    _, starts = torch.ops.fastvim.selective_scan(*arguments, True)
    one, other, between = torch.randn(3, 2, 5, 8, device=DEVICE)
    cases = {
        "shared": (one.expand(2, 2, 5, 8), torch.stack([one, one])),
        "apart": (torch.stack([one, between, other])[::2], torch.stack([one, other])),
        "channels first": (torch.stack([one, other]).mT.contiguous().mT, torch.stack([one, other])),
    }
    for name, (dy, plain) in cases.items():
        got, want = (
            torch.ops.fastvim.selective_scan_backward(v, *arguments, starts) for v in (dy, plain)
        )
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True)), name


@on_the_card
def test_more_elements_than_32_bits_count():
    """The last image's results are those of this image alone."""
    arguments = inputs(420, 1024, 2560, BF16)
    results = []
    for images in (slice(None), slice(-1, None)):
        leaves = [v.detach()[:, images] if v.ndim == 4 else v.detach() for v in arguments]
        leaves = [v.requires_grad_() for v in leaves]
        y = selective_scan(*leaves)
        gradients = torch.autograd.grad(y, [v for v in leaves if v.ndim == 4], y.detach())
        results.append([v[:, -1].clone() for v in (y, *gradients)])
        del leaves, y, gradients
    for name, got, want in zip(("y", "u", "dt", "B", "C"), *results, strict=True):
        error = (got.float() - want.float()).abs().max()
        assert error <= 1e-2 * want.float().abs().max(), name
