"""selective_scan against the recurrence in float64, one direction and one step at a time."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from fastvim_kernels import selective_scan

pytestmark = pytest.mark.usefixtures("cpu_backend")


def expected(u, dt, dt_bias, A_log, B, C):
    dt, A = F.softplus(dt + dt_bias[:, None, None]), -A_log.exp()
    directions = []
    for d in (0, 1):
        steps = range(u.shape[2]) if d == 0 else reversed(range(u.shape[2]))
        h = torch.zeros(u.shape[1], *A.shape[1:], dtype=u.dtype)  # (batch, channel, state)
        y = {}
        for t in steps:
            step = dt[d, :, t, :, None]
            h = torch.exp(step * A[d]) * h + step * B[d, :, t, None] * u[d, :, t, :, None]
            y[t] = (h * C[d, :, t, None]).sum(-1)
        directions.append(torch.stack([y[t] for t in sorted(y)], 1))
    return torch.stack(directions)


def inputs(batch, steps, channel, state):
    torch.manual_seed(0)
    u = torch.randn(2, batch, steps, channel)
    dt, dt_bias = torch.randn(2, batch, steps, channel), torch.randn(2, channel)
    A_log = torch.randn(2, channel, state)
    B, C = torch.randn(2, 2, batch, steps, state)
    return [v.clone().requires_grad_() for v in (u, dt, dt_bias, A_log, B, C)]


def in_chunks(monkeypatch, chunk):
    """Let chunks have so many steps."""
    for name in ("selective_scan", "cpu.operations"):
        module = importlib.import_module(f"fastvim_kernels.{name}")
        monkeypatch.setattr(module, "CHUNK_STEPS", chunk)


@pytest.mark.parametrize("piece", [1 << 19, 300], ids=["whole", "pieces"])
@pytest.mark.parametrize("steps", [1, 2, 17])
def test_matches_loop(monkeypatch, piece, steps):
    module = importlib.import_module("fastvim_kernels.selective_scan")
    monkeypatch.setattr(module, "piece_elements", lambda device: piece)
    if piece < 1 << 19:
        in_chunks(monkeypatch, 4)
    arguments = inputs(3, steps, 6, 4)
    exact = [v.detach().double().requires_grad_() for v in arguments]
    y, truth = selective_scan(*arguments), expected(*exact)
    seed = torch.randn_like(y)
    y.backward(seed)
    truth.backward(seed.double())
    assert (y - truth).abs().max() < 1e-5 * truth.abs().max()
    names = ("u", "dt", "dt_bias", "A_log", "B", "C")
    for name, got, want in zip(names, arguments, exact, strict=True):
        error = (got.grad - want.grad).abs().max() / want.grad.abs().max().clamp(min=1e-30)
        # with one step the state starts from zero and the rates have no influence
        assert error < 1e-5 or (steps == 1 and name == "A_log" and not got.grad.any()), name


@pytest.mark.parametrize("piece", [1 << 19, 40], ids=["whole", "pieces"])
def test_gradients_are_those_of_finite_differences(monkeypatch, gradcheck, piece):
    module = importlib.import_module("fastvim_kernels.selective_scan")
    monkeypatch.setattr(module, "piece_elements", lambda device: piece)
    if piece < 1 << 19:
        in_chunks(monkeypatch, 4)
    gradcheck(selective_scan, inputs(2, 4, 2, 3))


def test_directions_are_mirror_images():
    u, dt, dt_bias, A_log, B, C = (v.detach() for v in inputs(2, 9, 5, 4))
    u, dt, B, C = (torch.stack([v[0], v[0].flip(1)]) for v in (u, dt, B, C))
    dt_bias, A_log = dt_bias[:1].expand(2, -1), A_log[:1].expand(2, -1, -1)
    y = selective_scan(u, dt, dt_bias, A_log, B, C)
    torch.testing.assert_close(y[1], y[0].flip(1))


def test_state_is_float32_for_half_precision_tokens():
    arguments = [v.detach() for v in inputs(1, 300, 4, 4)]
    half = [arguments[0].bfloat16(), *arguments[1:]]
    y = selective_scan(*half)
    truth = expected(*(v.double() for v in half))
    assert y.dtype == torch.bfloat16
    assert (y - truth).abs().max() < 2**-8 * truth.abs().max()


def test_large_steps_are_themselves():
    """Beyond 20 softplus is the identity, and nothing overflows."""
    u, dt, dt_bias, A_log, B, C = inputs(2, 6, 5, 4)
    with torch.no_grad():
        dt.copy_(torch.linspace(-200, 200, dt.numel()).reshape(dt.shape))
    arguments = [u, dt, dt_bias, A_log, B, C]
    exact = [v.detach().double().requires_grad_() for v in arguments]
    y, truth = selective_scan(*arguments), expected(*exact)
    y.sum().backward()
    truth.sum().backward()
    assert (y - truth).abs().max() < 1e-5 * truth.abs().max()
    for got, want in zip(arguments, exact, strict=True):
        assert (got.grad - want.grad).abs().max() < 1e-5 * want.grad.abs().max()
