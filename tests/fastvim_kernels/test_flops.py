"""FLOP counts against counts by hand."""

import fastvim_kernels.flops  # noqa: F401 - registers the formulas
import torch
from fastvim_kernels import conv_pool, selective_scan
from torch.utils.flop_counter import FlopCounterMode


def counts(function, *arguments):
    """FLOPs of the forward pass and of the backward pass."""
    with FlopCounterMode(display=False) as forward:
        out = function(*arguments)
    out = out[0] if isinstance(out, tuple) else out
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


def test_convolution():
    x = torch.randn(2, 3, 5, 4, requires_grad=True)
    multiply_adds = 2 * (2 * 3 * 5 * 4) * 7
    flops = counts(lambda v: conv_pool(v, torch.randn(2, 4, 7), *torch.randn(2, 2, 4), (1,)), x)
    assert flops == (2 * multiply_adds, 3 * 2 * multiply_adds)


def test_scan():
    u, dt = torch.randn(2, 3, 5, 4, requires_grad=True), torch.rand(2, 3, 5, 4)
    dt_bias, A_log = torch.rand(2, 4), torch.rand(2, 4, 6)
    B, C = torch.randn(2, 3, 5, 6), torch.randn(2, 3, 5, 6)
    updates = 2 * 3 * 5 * 4 * 6
    assert counts(selective_scan, u, dt, dt_bias, A_log, B, C) == (6 * updates, 19 * updates)
