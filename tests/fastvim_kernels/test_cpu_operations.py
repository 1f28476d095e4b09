"""The operations in C at the sizes and values of models, against PyTorch in float64.

Small cases of each operation, gradients included, are in the tests of the operation.
"""

import pytest
import torch
from fastvim_kernels import add_norm, conv_pool, expand_norm_gate, mix, selective_scan

pytestmark = pytest.mark.usefixtures("native_backend")

# grid, pooled axes, order of the axes in memory
GRIDS = [
    ((32, 32), (1,), (0, 1)),
    ((17, 19), (1,), (1, 0)),
    ((17, 19), (0,), (0, 1)),
    ((9, 7, 5), (1,), (1, 0, 2)),
    ((5, 6, 7), (0, 1), (2, 0, 1)),
    ((3, 4, 2, 5), (2,), (0, 3, 1, 2)),
    ((211,), (), (0,)),
]
CHANNELS = [1, 40, 384, 2560]


def tokens(batch, grid, channel, order):
    """Half of wider tokens, whose axes are in some order in memory."""
    both = torch.randn(batch, *(grid[axis] for axis in order), 2 * channel)
    return both[..., channel:].permute(0, *(order.index(a) + 1 for a in range(len(grid))), -1)


def exact(function, *arguments):
    """Compute in float64, which PyTorch does."""
    return function(*(v.double() if isinstance(v, torch.Tensor) else v for v in arguments))


def run(function, arguments, double):
    """Outputs, and gradients of all tensors for seeds that are the same every time."""
    dtype = torch.float64 if double else torch.float32
    given = [
        v.detach().to(dtype).requires_grad_() if isinstance(v, torch.Tensor) else v
        for v in arguments
    ]
    leaves = [v for v in given if isinstance(v, torch.Tensor)]
    outputs = function(*given)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.manual_seed(1)
    seeds = [torch.randn(v.shape).to(dtype) for v in outputs]
    return outputs, torch.autograd.grad(outputs, leaves, seeds)


def check(function, *arguments):
    """Compare outputs and gradients with those in float64, and return the outputs."""
    got, want = (run(function, arguments, double) for double in (False, True))
    for kind, limit, ours, truth in zip(
        ("output", "gradient"), (1e-5, 1e-4), got, want, strict=True
    ):
        for index, (one, other) in enumerate(zip(ours, truth, strict=True)):
            assert one.dtype == torch.float32
            error = (one - other).abs().max() / other.abs().max()
            assert error <= limit, f"{kind} {index}: {error}"
    return got[0]


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize(("grid", "pool", "order"), GRIDS)
@pytest.mark.parametrize(("method", "taps"), [("mean", 4), ("max", 4), ("mean", 3), ("mean", 1)])
def test_conv_pool(grid, pool, order, channel, method, taps):
    torch.manual_seed(0)
    x = tokens(2, grid, channel, order)
    parameters = [torch.randn(2, channel, taps), *torch.randn(2, 2, channel)]
    _, skipped = check(conv_pool, x, *parameters, pool, method)
    assert skipped.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize(
    ("batch", "steps", "channel", "state"),
    [
        (1, 32, 384, 16),
        (3, 211, 40, 16),
        (1, 3, 2, 1024),
        (2, 64, 1, 5),
        (1, 16, 2560, 16),
        (2, 9, 17, 64),
    ],
)
def test_selective_scan(batch, steps, channel, state):
    torch.manual_seed(0)
    u, dt = torch.randn(2, 2, batch, steps, channel)
    _, B, C = torch.randn(2, batch, steps, 3 + 2 * state).split([3, state, state], -1)
    arguments = [u, dt, torch.randn(2, channel), torch.randn(2, channel, state), B, C]
    check(selective_scan, *arguments)


@pytest.mark.parametrize("channel", CHANNELS[1:])
@pytest.mark.parametrize(("grid", "pool", "order"), GRIDS)
@pytest.mark.parametrize("normed", [True, False])
def test_expand_norm_gate(grid, pool, order, channel, normed):
    torch.manual_seed(0)
    skipped, z = (tokens(2, grid, channel, order) for _ in range(2))
    steps = torch.Size(size for axis, size in enumerate(grid) if axis not in pool).numel()
    y = torch.randn(2, 2, steps, channel)
    norm = torch.randn(2, channel).unbind() if normed else (None, None)
    (out,) = check(expand_norm_gate, y, skipped, z, *norm, pool)
    assert out.stride() == torch.empty_like(z).stride()


@pytest.mark.parametrize("width", [5, 40, 192, 2561])
@pytest.mark.parametrize("bias", [True, False], ids=["layer", "rms"])
@pytest.mark.parametrize("residual", ["none", "own", "shared", "permuted", "narrow"])
def test_add_norm(width, bias, residual):
    torch.manual_seed(0)
    hidden = torch.randn(3, 5, 4, width)
    streams = {
        "none": None,
        "own": torch.randn(3, 5, 4, width),
        "shared": torch.randn(1, 5, 4, width).expand(3, -1, -1, -1),
        "permuted": torch.randn(3, 4, 5, width).transpose(1, 2),
        "narrow": torch.randn(3, 1, 1, width),
    }
    norm = torch.randn(width), torch.randn(width) if bias else None
    check(add_norm, hidden, streams[residual], *norm)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 30.0, 1e4, 1e30])
def test_gates_of_any_size(scale):
    """SiLU is half of small values, and of large ones zero or the identity."""
    z = torch.linspace(-scale, scale, 1001).view(1, 1, 7, 143)
    one = torch.ones(2, 1, 1, 143)
    arguments = one, 0 * z, z, None, None, (1,)
    got, want = expand_norm_gate(*arguments), exact(expand_norm_gate, *arguments)
    assert (got - want).abs().max() <= 1e-6 * want.abs().max()


def test_step_lengths_of_any_size():
    """From steps that are nothing to such that forget all; an exponent of 80 is rounded by 4e-6."""
    dt = torch.linspace(-80, 80, 2001).view(1, 2001, 1, 1).repeat(2, 1, 1, 1)
    u, B, C = torch.ones_like(dt), *(torch.ones(2, 2001, 1, 1) for _ in range(2))
    rates = torch.zeros(2, 1, 1)
    arguments = u, dt, torch.zeros(2, 1), rates, B, C
    got, want = selective_scan(*arguments), exact(selective_scan, *arguments)
    seen = want > 1e-25
    assert ((got - want).abs() / want)[seen].max() < 1e-5
    assert got[~seen].abs().max() < 1e-24


@pytest.mark.parametrize("method", ["mean", "max"])
@pytest.mark.parametrize("place", [0, 5, 11])
def test_what_is_no_number_stays_none(method, place):
    x = torch.randn(1, 3, 4, 2)
    x.view(-1, 2)[place, 0] = float("nan")
    parameters = [torch.randn(2, 2, 4), *torch.randn(2, 2, 2)]
    pooled, skipped = conv_pool(x, *parameters, (1,), method)
    want, of_skip = exact(conv_pool, x, *parameters, (1,), method)
    assert torch.equal(pooled.isnan(), want.isnan())
    assert torch.equal(skipped.isnan(), of_skip.isnan())
    assert want.isnan().any()


def test_channels_may_lie_scattered():
    """As of images, channels first: PyTorch serves, and the results lie as it lets them."""
    torch.manual_seed(0)
    first = torch.randn(2, 8, 3, 4).permute(0, 2, 3, 1)
    overlapping = torch.randn(2, 64).unfold(1, 8, 1)[:, :5]
    parameters = [torch.randn(2, 8, 4), *torch.randn(2, 2, 8)]
    for x in (first, overlapping):
        _, skipped = check(conv_pool, x, *parameters, (x.ndim - 3,))
        assert skipped.stride() == torch.empty_like(x).stride()
    (out,) = check(expand_norm_gate, torch.randn(2, 2, 3, 8), first, first, None, None, (1,))
    assert out.stride() == first.stride()
    shapes = [(2, 4, 4), (2, 4), (2, 4), (2, 33, 4), (2, 4, 1), (2, 4), (2, 4, 16), (4,), (4,)]
    rest = [torch.randn(shape) for shape in (*shapes, (2, 4))]
    check(mix, first, *rest, (0, 1), (1,))


def test_results_have_the_types_that_they_are_registered_with():
    """Where arguments are of several, as under autocast."""
    operators, only = torch.ops.fastvim, {"test_utils": ["test_faketensor"]}
    y, z = torch.randn(2, 1, 3, 8), torch.randn(1, 3, 4, 8).bfloat16()
    norm = torch.randn(2, 8).unbind()
    torch.library.opcheck(operators.expand_norm_gate.default, (y, z, z, *norm, (1,), 1e-5), **only)
    torch.library.opcheck(
        operators.expand_norm_gate_backward.default, (z, y, z, z, *norm, (1,), 1e-5), **only
    )
    B = torch.randn(2, 1, 3, 4).bfloat16()
    inputs = y, y.bfloat16(), torch.randn(2, 8), torch.randn(2, 8, 4), B, B
    torch.library.opcheck(operators.selective_scan.default, (*inputs, True), **only)
    starts = y.new_empty(0, 2, 1, 4, 8)
    torch.library.opcheck(operators.selective_scan_backward.default, (y, *inputs, starts), **only)


def test_the_backend_may_change_before_the_backward_pass(monkeypatch):
    torch.manual_seed(0)
    u, dt = torch.randn(2, 2, 1, 211, 8)
    B, C = torch.randn(2, 2, 1, 211, 16)
    leaves = [u, dt, torch.randn(2, 8), torch.randn(2, 8, 16), B, C]
    leaves = [v.detach().clone().requires_grad_() for v in leaves]
    gradients = []
    for backends in (("torch", "native"), ("native", "torch"), ("native", "native")):
        monkeypatch.setenv("FASTVIM_BACKEND", backends[0])
        loss = selective_scan(*leaves).square().sum()
        monkeypatch.setenv("FASTVIM_BACKEND", backends[1])
        gradients.append(torch.autograd.grad(loss, leaves))
    for other in gradients[:2]:
        for got, want in zip(other, gradients[2], strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * want.abs().max().item())


ONE, TOKENS = torch.ones(8), torch.ones(1, 3, 4, 8)
TAPS, BOTH = torch.ones(2, 8, 4), torch.ones(2, 8)
SCANNED, MAPS = torch.ones(2, 1, 3, 8), torch.ones(2, 1, 3, 16)


@pytest.mark.parametrize(
    ("name", "function", "arguments"),
    [
        ("weight", add_norm, (TOKENS, None, ONE[:4])),
        ("bias", add_norm, (TOKENS, None, ONE, ONE[:4])),
        ("expand", add_norm, (TOKENS, TOKENS[..., :4], ONE)),
        ("weight", conv_pool, (TOKENS, TAPS[:1], BOTH, BOTH, (1,))),
        ("skip", conv_pool, (TOKENS, TAPS, BOTH, BOTH[:, :4], (1,))),
        ("u", selective_scan, (SCANNED[:1], SCANNED, BOTH, torch.ones(2, 8, 16), MAPS, MAPS)),
        ("dt", selective_scan, (SCANNED, MAPS, BOTH, torch.ones(2, 8, 16), MAPS, MAPS)),
        ("B", selective_scan, (SCANNED, SCANNED, BOTH, torch.ones(2, 8, 16), SCANNED, MAPS)),
        ("y", expand_norm_gate, (SCANNED[:, :, :2], TOKENS, TOKENS, ONE, ONE, (1,))),
        ("skipped", expand_norm_gate, (SCANNED, TOKENS[:, :, :1], TOKENS, ONE, ONE, (1,))),
        ("weight and bias", expand_norm_gate, (SCANNED, TOKENS, TOKENS, ONE, None, (1,))),
    ],
)
def test_shapes_that_do_not_fit_are_refused(name, function, arguments):
    with pytest.raises((ValueError, RuntimeError), match=name):
        function(*arguments)


def test_same_bits_with_any_number_of_threads():
    torch.manual_seed(0)
    x, z = (tokens(2, (9, 7), 80, (1, 0)) for _ in range(2))
    conv = [torch.randn(2, 80, 4), *torch.randn(2, 2, 80)]
    dt, B, C = (torch.randn(2, 2, 9, n) for n in (80, 16, 16))
    A_log, norm = torch.randn(2, 80, 16), torch.randn(80)

    def mixer(x, z, weight, bias, skip, dt, B, C, A_log, norm):
        pooled, skipped = conv_pool(x, weight, bias, skip, (1,))
        y = selective_scan(pooled, dt, bias, A_log, B, C)
        return add_norm(expand_norm_gate(y, skipped, z, norm, norm, (1,)), None, norm, norm)

    threads, runs = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            outputs, gradients = run(mixer, (x, z, *conv, dt, B, C, A_log, norm), double=False)
            runs.append([*outputs, *gradients])
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, runs[0], strict=True))
