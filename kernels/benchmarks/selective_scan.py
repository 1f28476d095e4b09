"""Time the selective scan on a card: python kernels/benchmarks/selective_scan.py [settings].

Settings are constants of `fastvim_kernels.gpu.selective_scan`, as in BACKWARD_UNROLL=4. Prints
medians in microseconds, and the bound: the larger of bytes at 4.3 TB/s, exponentials at 16 a clock
and multiprocessor, and multiply-adds at 128.
"""

import importlib
import sys

import torch
import triton
from fastvim_kernels import selective_scan

SHAPES = {
    "FastVim-S 224": (128, 14, 768),
    "FastVim-T 224": (128, 14, 384),
    "FastVim-B 224": (128, 14, 1536),
    "FastVim-S 1024": (16, 64, 768),
    "FastVim-S 2048": (8, 128, 768),
    "FastVim-T 2048": (8, 128, 384),
    "FastVim-B 2048": (8, 128, 1536),
    "FastChannelVim-S/16": (32, 112, 768),
    "FastChannelVim-S/8": (8, 224, 768),
    "Vim-S 224": (128, 197, 768),
    "Vim-S 1024": (16, 4097, 768),
    "Vim-S 2048": (8, 16385, 768),
    "Vim-S 2048, one": (1, 16385, 768),
    "131072 steps": (1, 131072, 768),
}
CLOCK, PROCESSORS, BANDWIDTH = 1.75e9, 132, 4.3e12


def bound(batch: int, steps: int, channels: int, *, backward: bool) -> float:
    """Microseconds."""
    elements = 2 * batch * steps * channels
    tensors = 5 if backward else 3
    exponentials, multiply_adds = (32, 16 * 12) if backward else (16, 16 * 4)
    each_second = PROCESSORS * CLOCK
    return 1e6 * max(
        elements * 2 * tensors / BANDWIDTH,
        elements * exponentials / (16 * each_second),
        elements * multiply_adds / (128 * each_second),
    )


def main() -> None:
    """Print a line a shape."""
    kernels = importlib.import_module("fastvim_kernels.gpu.selective_scan")
    for setting in sys.argv[1:]:
        name, value = setting.split("=")
        setattr(kernels, name, int(value))
    print(f"{'µs':>20}  {'forward':>9} {'bound':>7} {'backward':>9} {'bound':>7}")
    for name, (batch, steps, channels) in SHAPES.items():
        options = {"device": "cuda", "dtype": torch.bfloat16}
        u = torch.randn(2, batch, steps, channels, **options)
        dt = torch.randn(2, batch, steps, channels, **options)
        rank = channels // 32
        maps = torch.randn(2, batch, steps, rank + 32, **options)
        _, b, c = maps.split([rank, 16, 16], -1)
        dt_bias = torch.rand(2, channels, device="cuda") * 4 - 6
        a_log = torch.arange(1, 17.0, device="cuda").log().expand(2, channels, 16).contiguous()
        leaves = [v.detach().requires_grad_() for v in (u, dt, dt_bias, a_log, b, c)]
        with torch.no_grad():
            forward = triton.testing.do_bench(
                lambda v=leaves: selective_scan(*v), return_mode="median"
            )
        y = selective_scan(*leaves)
        seed = torch.randn_like(y)
        backward = triton.testing.do_bench(
            lambda y=y, v=leaves, s=seed: torch.autograd.grad(y, v, s, retain_graph=True),
            return_mode="median",
        )
        least = [bound(batch, steps, channels, backward=way) for way in (False, True)]
        times = (1e3 * forward, least[0], 1e3 * backward, least[1])
        print(f"{name:>20}  {times[0]:9.1f} {times[1]:7.1f} {times[2]:9.1f} {times[3]:7.1f}")


if __name__ == "__main__":
    main()
