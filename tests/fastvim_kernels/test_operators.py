"""The operations as the compiler sees them: registration, tracing, export, autocast."""

import importlib

import fastvim_kernels
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

OPS = torch.ops.fastvim
GRIDS = [
    ((6,), ()),
    ((3, 4), (1,)),
    ((3, 4, 2), (1, 2)),
    ((3, 4), ()),
    ((3, 4), (0,)),
    ((3, 4), (0, 1)),
    ((3, 4, 2), ()),
    ((3, 4, 2), (0,)),
    ((3, 4, 2), (2,)),
    ((3, 4, 2), (0, 1)),
    ((3, 4, 2), (0, 1, 2)),
]
grids = pytest.mark.parametrize(("grid", "pool"), GRIDS)
few_grids = pytest.mark.parametrize(("grid", "pool"), GRIDS[:3])
FP32, BF16 = torch.float32, torch.bfloat16


def tokens(*shape, dtype=torch.float32, grad=False, permuted=False):
    """Random values; `permuted` keeps the shape but not the order in memory."""
    v = torch.randn(shape, dtype=dtype)
    if permuted:
        v = v.transpose(-2, -3).contiguous().transpose(-2, -3)
    return v.requires_grad_(grad)


def steps(grid, pool):
    return torch.Size(size for axis, size in enumerate(grid) if axis not in pool).numel()


def cut_into(monkeypatch, piece):
    """Let the operations work on pieces of so many elements."""
    for name in ("pieces", "selective_scan"):
        module = importlib.import_module(f"fastvim_kernels.{name}")
        monkeypatch.setattr(module, "piece_elements", lambda device: piece)


def check(operator, *arguments):
    """Check an operator with gradients and without."""
    torch.library.opcheck(operator, arguments)
    detached = [v.detach() if isinstance(v, torch.Tensor) else v for v in arguments]
    torch.library.opcheck(operator, detached)


@pytest.mark.parametrize("with_bias", [False, True], ids=["rms", "layer"])
@pytest.mark.parametrize(
    ("dtype", "with_residual", "permuted"),
    [(FP32, True, True), (FP32, False, False), (BF16, True, False), (BF16, False, True)],
)
def test_add_norm_is_well_registered(dtype, with_residual, with_bias, permuted):
    shape = (2, 3, 4, 8)
    hidden = tokens(*shape, dtype=dtype, grad=True, permuted=permuted)
    residual = tokens(*shape, grad=True) if with_residual else None
    weight, bias = tokens(8, grad=True), tokens(8, grad=True) if with_bias else None
    check(OPS.add_norm.default, hidden, residual, weight, bias, None, 1e-5)
    dnormed = tokens(*shape, dtype=dtype, permuted=permuted)
    dtotal = tokens(*shape) if with_residual else None
    stats = torch.rand(2, 2, 3, 4, 1)
    given = [v if v is None else v.detach() for v in (weight, bias)]
    for dtype, of_residual in ((FP32, True), (BF16, False)):
        torch.library.opcheck(
            OPS.add_norm_backward.default,
            (dnormed, dtotal, tokens(*shape), stats, *given, None, dtype, of_residual),
        )


@grids
def test_conv_pool_is_well_registered(grid, pool):
    case = GRIDS.index((grid, pool))
    dtype, method = (FP32, BF16)[case % 2], ("mean", "max")[case // 2 % 2]
    permuted = len(grid) > 1 and case % 3 > 0
    x = tokens(2, *grid, 8, dtype=dtype, grad=True, permuted=permuted)
    rest = [tokens(2, 8, 4, grad=True), tokens(2, 8, grad=True), tokens(2, 8, grad=True)]
    check(OPS.conv_pool.default, x, *rest, pool, method)
    dpooled = tokens(2, 2, steps(grid, pool), 8, dtype=dtype)
    dskipped = tokens(2, *grid, 8, dtype=dtype, permuted=permuted)
    given = [v.detach() for v in (x, *rest)]
    torch.library.opcheck(OPS.conv_pool_backward.default, (dpooled, dskipped, *given, pool, method))


@pytest.mark.parametrize("piece", [1 << 19, 600], ids=["whole", "pieces"])
@pytest.mark.parametrize(("dtype", "permuted"), [(FP32, False), (BF16, True)])
@pytest.mark.parametrize("keep", [False, True])
def test_selective_scan_is_well_registered(monkeypatch, piece, dtype, permuted, keep):
    cut_into(monkeypatch, piece)
    u = tokens(2, 3, 5, 8, dtype=dtype, grad=keep, permuted=permuted)
    dt, dt_bias = tokens(2, 3, 5, 8, dtype=dtype, grad=keep), tokens(2, 8, grad=keep)
    A_log = tokens(2, 8, 4, grad=keep)
    B, C = (tokens(2, 3, 5, 4, dtype=dtype, grad=keep, permuted=permuted) for _ in "BC")
    check(OPS.selective_scan.default, u, dt, dt_bias, A_log, B, C, keep)
    if keep:
        given = [v.detach() for v in (u, dt, dt_bias, A_log, B, C)]
        _, starts = OPS.selective_scan(*given, True)
        dy = tokens(2, 3, 5, 8, dtype=dtype, permuted=permuted)
        torch.library.opcheck(OPS.selective_scan_backward.default, (dy, *given, starts))


@grids
def test_expand_norm_gate_is_well_registered(grid, pool):
    case = GRIDS.index((grid, pool))
    dtype, normed = (FP32, BF16)[case % 2], case // 2 % 2 == 0
    permuted = len(grid) > 1 and case % 3 > 0
    y = tokens(2, 2, steps(grid, pool), 8, dtype=dtype, grad=True)
    skipped, z, dout = (tokens(2, *grid, 8, dtype=dtype, permuted=permuted) for _ in range(3))
    norm = [tokens(8, grad=True), tokens(8, grad=True)] if normed else [None, None]
    check(
        OPS.expand_norm_gate.default,
        y,
        skipped.requires_grad_(),
        z.requires_grad_(),
        *norm,
        pool,
        1e-5,
    )
    given = [v if v is None else v.detach() for v in (y, skipped, z, *norm)]
    torch.library.opcheck(OPS.expand_norm_gate_backward.default, (dout, *given, pool, 1e-5))


class Block(nn.Module):
    """All operations one after the other."""

    def __init__(self, pool, method="mean", dim=4):
        super().__init__()
        self.pool, self.method = pool, method
        self.norm = nn.RMSNorm(dim)
        self.inner = nn.Linear(dim, 2 * dim, bias=False)
        self.gate = nn.LayerNorm(dim)
        self.conv = nn.Parameter(torch.randn(2, dim, 4))
        self.bias, self.skip = (nn.Parameter(torch.randn(2, dim)) for _ in range(2))
        self.step = nn.Parameter(torch.randn(2, dim))
        self.rates = nn.Parameter(torch.randn(2, dim, 3))
        self.maps = nn.Linear(dim, dim + 6)

    def forward(self, hidden):
        projected, residual = fastvim_kernels.norm_project(
            hidden, None, self.norm.weight, None, self.inner.weight
        )
        x, z = projected.chunk(2, -1)
        pooled, skipped = fastvim_kernels.conv_pool(
            x, self.conv, self.bias, self.skip, self.pool, self.method
        )
        dt, b, c = self.maps(pooled).split([x.shape[-1], 3, 3], -1)
        y = fastvim_kernels.selective_scan(pooled, dt, self.step, self.rates, b, c)
        out = fastvim_kernels.expand_norm_gate(
            y, skipped, z, self.gate.weight, self.gate.bias, self.pool
        )
        normed, _ = fastvim_kernels.add_norm(out, residual, self.norm.weight)
        return normed.mean(tuple(range(1, normed.ndim - 1)))


@few_grids
@pytest.mark.parametrize("piece", [1 << 19, 150], ids=["whole", "pieces"])
def test_compiles_without_breaks(monkeypatch, grid, pool, piece):
    cut_into(monkeypatch, piece)
    torch._dynamo.reset()
    torch.manual_seed(0)
    block = Block(pool, "mean" if piece > 1 << 10 else "max")
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    # the first batch fixes the sizes, the second leaves that of the batch open
    for batch in (2, 3, 4):
        x = torch.randn(batch, *grid, 4)
        expected, out = block(x), compiled(x)
        torch.testing.assert_close(out, expected)
        seed = torch.randn_like(out)
        want, got = (
            torch.autograd.grad(v, list(block.parameters()), seed) for v in (expected, out)
        )
        torch.testing.assert_close(got, want)
    for mode in (torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", BF16)):
        with mode():
            torch.testing.assert_close(compiled(x), block(x))


@few_grids
@pytest.mark.parametrize("strict", [False, True])
def test_exports_with_any_batch_and_grid(grid, pool, strict):
    block = Block(pool).eval()
    dims = [torch.export.Dim(name, max=4096) for name in ("batch", "rows", "columns", "depth")]
    x = torch.randn(3, *(size + 2 for size in grid), 4)
    shapes = (dict(enumerate(dims[: 1 + len(grid)])),)
    program = torch.export.export(block, (x,), dynamic_shapes=shapes, strict=strict).module()
    for x in (torch.randn(5, *grid, 4), torch.randn(2, *(size + 9 for size in grid), 4)):
        torch.testing.assert_close(program(x), block(x))


def test_autocast_leaves_the_arithmetic_in_float32():
    """Also when the backward pass runs inside it."""
    torch.manual_seed(0)
    u, dt, step = torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 4), torch.randn(2, 4)
    A_log, B, C = torch.randn(2, 4, 3), torch.randn(2, 2, 5, 3), torch.randn(2, 2, 5, 3)
    x, z = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    taps, row, norm = torch.randn(2, 4, 4), torch.randn(2, 4), torch.randn(4)
    calls = {
        fastvim_kernels.add_norm: [x, None, norm, norm],
        fastvim_kernels.conv_pool: [x, taps, row, row, ()],
        fastvim_kernels.selective_scan: [u, dt, step, A_log, B, C],
        fastvim_kernels.expand_norm_gate: [u, x, z, norm, norm, ()],
    }

    def gradients(function, arguments):
        leaves = [
            v.clone().requires_grad_() if isinstance(v, torch.Tensor) else v for v in arguments
        ]
        out = function(*leaves)
        first = out[0] if isinstance(out, tuple) else out
        first.square().sum().backward()
        return [first, *(v.grad for v in leaves if isinstance(v, torch.Tensor))]

    for function, arguments in calls.items():
        want = gradients(function, arguments)
        with torch.autocast("cpu", torch.bfloat16):
            got = gradients(function, arguments)
        torch.testing.assert_close(got, want)


def test_runs_under_autocast_with_a_gradient_for_every_parameter():
    torch.manual_seed(0)
    block = Block((1,))
    x = torch.randn(2, 3, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        out = block(x)
    out.sum().backward()
    assert all(p.grad.isfinite().all() for p in block.parameters())
    torch.testing.assert_close(out.float(), block(x), rtol=0.05, atol=0.05)


def test_gradients_of_a_part_are_those_of_the_whole():
    torch.manual_seed(0)
    block = Block((1,))
    x = torch.randn(2, 3, 4, 4)
    parameters = dict(block.named_parameters())
    block(x).square().sum().backward()
    want = {name: parameter.grad for name, parameter in parameters.items()}
    for trained in parameters:
        for name, parameter in parameters.items():
            parameter.grad = None
            parameter.requires_grad_(name == trained)
        block(x).square().sum().backward()
        torch.testing.assert_close(parameters[trained].grad, want[trained])
        assert [name for name, v in parameters.items() if v.grad is not None] == [trained]


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_changes_nothing(reentrant):
    torch.manual_seed(0)
    block, x = Block((1,)), torch.randn(2, 3, 4, 4, requires_grad=True)
    (want,) = torch.autograd.grad(block(x).square().sum(), x)
    checkpoint(block, x, use_reentrant=reentrant).square().sum().backward()
    assert torch.equal(x.grad, want)
