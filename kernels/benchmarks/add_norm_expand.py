"""Time add_norm and expand_norm_gate on one GPU against the bytes that they must move.

    python kernels/benchmarks/add_norm_expand.py

Prints the median time and the part of the floor, at 4.3 TB/s: 1.0 cannot be beaten. Times are those
of the operators' functions, with what they allocate and the sums of parameter gradients, but
without autograd.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton
from fastvim_kernels.gpu import add_norm, expand_norm_gate

BANDWIDTH = 4.3e12
DIM = 384
SHAPES = {"16 x 64 x 64": (16, 64, 64), "128 x 14 x 14": (128, 14, 14)}


def measure(name: str, floor: float, function: Callable[..., Any], *arguments: Any) -> None:
    """Print a line; `floor` in bytes."""
    graph = torch.cuda.CUDAGraph()
    function(*arguments)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):  # so that Python's launches do not count
        function(*arguments)
    time = triton.testing.do_bench(graph.replay, return_mode="median") * 1e3
    least = floor / BANDWIDTH * 1e6
    print(f"{name:44} {time:8.1f} us   floor {least:6.1f} us   {least / time:5.2f}")


def randn(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Random tokens."""
    return torch.randn(shape, dtype=torch.float32, device="cuda").to(dtype)


def time_add_norm(name: str, shape: tuple[int, ...], dim: int) -> None:
    """RMSNorm, with a residual."""
    hidden, residual = randn(*shape, dim), randn(*shape, dim, dtype=torch.float32)
    weight = randn(dim, dtype=torch.float32)
    _, total, stats = add_norm.forward(hidden, residual, weight, None, 1e-5)
    tokens = hidden.numel()
    measure(f"add_norm {name}", 12 * tokens, add_norm.forward, hidden, residual, weight, None, 1e-5)
    arguments = (hidden, residual, total, stats, weight, None, hidden.dtype, True)
    measure(f"add_norm backward {name}", 16 * tokens, add_norm.backward, *arguments)
    again = partial(add_norm.backward, again=True)
    measure(f"add_norm backward, normed again {name}", 18 * tokens, again, *arguments)


def time_expand(name: str, shape: tuple[int, ...], width: int, *, columns: bool) -> None:
    """Pool the columns of a grid, or its rows as columns of a permuted view."""
    batch, rows, columns_ = shape
    y = randn(2, batch, rows, width)
    skipped, z, dout = (randn(*shape, width) for _ in range(3))
    if columns:
        y = randn(2, batch, columns_, width)
        skipped, z, dout = (v.transpose(1, 2) for v in (skipped, z, dout))
    norm = [randn(width, dtype=torch.float32) for _ in range(2)]
    arguments = (y, skipped, z, *norm, (1,), 1e-5)
    name = f"{name} {'columns' if columns else 'rows'}"
    tokens, small = z.numel(), y.numel()
    measure(f"expand {name}", 6 * tokens + 2 * small, expand_norm_gate.forward, *arguments)
    floor = 10 * tokens + 3 * small
    measure(f"expand backward {name}", floor, expand_norm_gate.backward, dout, *arguments)


def main() -> None:
    """Time both at FastVim-S's width."""
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "triton", triton.__version__)
    for name, shape in SHAPES.items():
        time_add_norm(name, shape, DIM)
        for columns in (False, True):
            time_expand(name, shape, 2 * DIM, columns=columns)


if __name__ == "__main__":
    main()
