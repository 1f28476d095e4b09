"""Compile the kernels of training steps for an H100, on a machine without a card.

Triton's interpreter runs what its compiler refuses. Run as a program, as the interpreter is chosen
when Triton is imported; prints the name of each kernel that was compiled.
"""

from importlib import import_module
from types import SimpleNamespace

import torch
import triton
from fastvim_kernels import conv_pool, operation, selective_scan
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

import fastvim

H100 = GPUTarget("cuda", 90, 32)
SMALL = {"img_size": 224, "embed_dim": 192, "num_classes": 4}


def main() -> None:
    """Take the steps, with every launch replaced by its compilation."""
    device = SimpleNamespace(
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: H100,
    )
    triton.runtime.driver.set_active(device)
    launch, compiled = JITFunction.run, set()

    def compile_only(kernel, *arguments, grid, warmup, **options):
        compiled.add(f"{kernel.__module__.removeprefix('fastvim_kernels.gpu.')}.{kernel.__name__}")
        return launch(kernel, *arguments, grid=grid, warmup=True, **options)

    JITFunction.run = compile_only
    operation.use_triton = lambda tensor: True
    for name in ("conv_pool", "expand_norm_gate"):  # as on the card
        kernels = import_module(f"fastvim_kernels.gpu.{name}")
        kernels.fast_math = lambda tensor: tensor.dtype != torch.float32
    step(fastvim.FastVim(**SMALL, depth=2), torch.randn(1, 3, 224, 224))
    step(fastvim.Vim(**SMALL, depth=1), torch.randn(1, 3, 224, 224))
    step(
        fastvim.FastChannelVim(
            **SMALL, depth=2, in_chans=3, hcs=False, collapse_method="max", rms_norm=False
        ),
        torch.randn(1, 3, 224, 224),
    )
    long_scan()
    pooled_lines()
    print(*sorted(compiled), sep="\n")


def step(model: torch.nn.Module, images: torch.Tensor) -> None:
    """Forward and backward pass under autocast. Nothing is computed, so memory is unwritten."""
    with torch.autocast("cpu", torch.bfloat16):
        out = model(images)
    out.float().sum().backward()


def long_scan() -> None:
    """So few and long sequences that they are divided."""
    u, dt = (torch.randn(2, 1, 2000, 64, requires_grad=True) for _ in range(2))
    maps = [torch.randn(2, 1, 2000, 16, requires_grad=True) for _ in range(2)]
    selective_scan(u, dt, torch.randn(2, 64), torch.randn(2, 64, 16), *maps).sum().backward()


def pooled_lines() -> None:
    """Pooled tokens that lie a line apart."""
    x, row = torch.randn(1, 14, 14, 64).bfloat16(), torch.randn(2, 64)
    conv_pool(x, torch.randn(2, 64, 4), row, row, (0,))


if __name__ == "__main__":
    main()
