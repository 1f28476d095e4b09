"""The mixer as one operation against its four operations and products, on every backend."""

import pytest
import torch
from fastvim_kernels import conv_pool, expand_norm_gate, mix, selective_scan

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FP32, BF16 = torch.float32, torch.bfloat16
RANK, STATE = 2, 16

# grid, order of its axes, pooled positions, method, norm, factor
CASES = [
    ((2, 3), (0, 1), (1,), "mean", True, 1.0),
    ((2, 3), (1, 0), (1,), "mean", True, 0.25),
    ((3, 2), (0, 1), (1,), "max", False, 1.0),
    ((5,), (0,), (), "mean", True, 1.0),
    ((2, 2, 3), (1, 0, 2), (1,), "mean", True, 1.0),
    ((2, 2, 3), (2, 0, 1), (2,), "mean", True, 1.0),
    ((2, 2, 3), (0, 1, 2), (0, 1), "max", True, 1.0),
]


@pytest.fixture(params=["torch", "triton"] + ["native"] * (DEVICE == "cpu"))
def backend(request, monkeypatch, poisoned_memory):
    """Run on one backend, on poisoned memory."""
    if request.param == "native":
        request.getfixturevalue("native_backend")
    monkeypatch.setenv("FASTVIM_BACKEND", request.param)
    return request.param


def arguments(grid, *, dim=8, norm=True, dtype=FP32, batch=2):
    torch.manual_seed(0)
    channel = 2 * dim
    shapes = [
        (batch, *grid, 2 * channel),
        *[(2, channel, 4), (2, channel), (2, channel)],
        *[(2, RANK + 2 * STATE, channel), (2, channel, RANK), (2, channel), (2, channel, STATE)],
        *[(channel,), (channel,)],
        (dim, channel),
    ]
    xz, *rest = [torch.randn(shape, device=DEVICE) for shape in shapes]
    rest[3] /= channel**0.5
    rest[6].sub_(2).clamp_(-3, 3)
    if not norm:
        rest[7] = rest[8] = None
    return [xz.to(dtype), *rest]


def composed(xz, conv, conv_bias, skip, x_proj, dt_proj, dt_bias, A_log, *rest):
    """Run the operations one after the other."""
    weight, bias, out_proj, order, pool, method, factor = rest
    there = (0, *(axis + 1 for axis in order), len(order) + 1)
    x, z = (v.permute(there) for v in xz.chunk(2, -1))
    pooled, skipped = conv_pool(x, conv, conv_bias, skip, pool, method)
    pooled = pooled * factor
    maps = pooled.flatten(1, 2) @ x_proj.to(xz.dtype).mT
    dt, b, c = maps.split([RANK, STATE, STATE], -1)
    dt, b, c = (v.unflatten(1, pooled.shape[1:3]) for v in (dt @ dt_proj.to(xz.dtype).mT, b, c))
    y = selective_scan(pooled, dt, dt_bias, A_log, b, c)
    gated = expand_norm_gate(y, skipped, z, weight, bias, pool)
    back = (0, *(order.index(axis) + 1 for axis in range(len(order))), len(order) + 1)
    return gated.permute(back) @ out_proj.to(xz.dtype).mT


def run(function, inputs, options, seed=None):
    """Output and gradients of whatever is a tensor."""
    leaves = [None if v is None else v.detach().requires_grad_() for v in inputs]
    out = function(*leaves, *options)
    seed = torch.randn_like(out) if seed is None else seed.to(out.dtype)
    present = [v for v in leaves if v is not None]
    return [out, *torch.autograd.grad(out, present, seed)], seed


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("grid", "order", "pool", "method", "norm", "factor"), CASES)
def test_equals_its_operations(
    backend, monkeypatch, grid, order, pool, method, norm, factor, dtype
):
    options = (order, pool, method, factor)
    inputs = arguments(grid, norm=norm, dtype=dtype)
    got, seed = run(mix, inputs, options)
    monkeypatch.setenv("FASTVIM_BACKEND", "torch")
    exact = [None if v is None else v.float() for v in inputs]
    want, _ = run(composed, exact, options, seed)
    rounded, _ = run(composed, inputs, options, seed)  # in the same dtype by PyTorch
    for index, (a, b, c) in enumerate(zip(got, want, rounded, strict=True)):
        assert a.shape == b.shape
        error, allowed = (a - b).norm() / b.norm(), 1e-5
        if dtype == BF16:
            allowed = 2e-2 + 1.5 * (c - b).norm() / b.norm()
        assert error < allowed, f"{index}: {error}"


def test_gradients_are_the_same_every_time(backend):
    inputs = arguments((3, 4), dtype=BF16)
    options = ((0, 1), (1,), "mean", 1.0)
    first, seed = run(mix, inputs, options)
    second, _ = run(mix, inputs, options, seed)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("grid", "order", "pool", "method"),
    [
        ((2, 3), (1, 0), (1,), "mean"),
        ((2, 1, 2), (0, 1, 2), (1, 2), "max"),
        ((3,), (0,), (), "mean"),
    ],
)
def test_gradients_are_those_of_finite_differences(gradcheck, grid, order, pool, method):
    xz, *rest = arguments(grid, dim=2, batch=1)
    gradcheck(lambda *values: mix(*values, order, pool, method), [xz, *rest])


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("dtype", [FP32, BF16, torch.float64], ids=["fp32", "bf16", "fp64"])
@pytest.mark.parametrize("case", [0, 2, 4, 6])
def test_is_well_registered(case, dtype, keep):
    grid, order, pool, method, norm, factor = CASES[case]
    inputs = arguments(grid, norm=norm)
    wide = torch.promote_types(dtype, FP32)
    products = (0, 4, 5, 10)  # tokens and the matrices that they meet
    inputs = [
        None if v is None else v.to(dtype if i in products else wide) for i, v in enumerate(inputs)
    ]
    options = (order, pool, method, factor, 1e-5)
    forward, backward = torch.ops.fastvim.mix.default, torch.ops.fastvim.mix_backward.default
    only = {"test_utils": ["test_schema", "test_faketensor"]}
    torch.library.opcheck(forward, (*inputs, *options, keep), **only)
    if keep:
        out, *kept = forward(*inputs, *options, True)
        torch.library.opcheck(backward, (torch.randn_like(out), *inputs, *kept, *options), **only)


def test_results_are_as_registered(backend):
    inputs = arguments((2, 3), dim=6)  # an odd number of tokens' vectors would lie unaligned
    options = ((0, 1), (1,), "mean", 1.0, 1e-5)
    out, *kept = torch.ops.fastvim.mix(*inputs, *options, True)
    torch.library.opcheck(
        torch.ops.fastvim.mix_backward.default,
        (torch.randn_like(out), *inputs, *kept, *options),
        test_utils=["test_schema", "test_faketensor"],
    )


def test_parameters_in_half_precision(backend):
    options = ((1, 0), (1,), "mean", 0.5)
    inputs = arguments((2, 3))
    got = mix(*(v.half() for v in inputs), *options)
    want = mix(*inputs, *options)
    assert (got - want).norm() / want.norm() < 2e-2


def test_keeps_nothing_without_gradients():
    inputs = arguments((2, 3))
    *kept, states = torch.ops.fastvim.mix(*inputs, (0, 1), (1,), "mean", 1.0, 1e-5, False)[1:]
    assert all(v.numel() == 0 for v in (*kept, states))
