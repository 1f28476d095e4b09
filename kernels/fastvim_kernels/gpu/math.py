"""Arithmetic that the kernels share, and what they ask of the device."""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def tanh(x, FAST: tl.constexpr):
    """Hyperbolic tangent of float32 `x`; FAST as in `sigmoid`."""
    if FAST:
        return tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def sigmoid(x, FAST: tl.constexpr):
    """Sigmoid of float32 `x`; with FAST one special function instead of two.

    FAST is good to 2^-12, which half precision hides and float32 does not (see `fast_math`).
    """
    if FAST:
        return 0.5 * tanh(0.5 * x, FAST) + 0.5
    return tl.sigmoid(x)


@triton.jit
def silu(x, FAST: tl.constexpr):
    """Return x * sigmoid(x) of float32 `x`; FAST as in `sigmoid`."""
    return x * sigmoid(x, FAST)


def fast_math(tensor: Tensor) -> bool:
    """Whether kernels on this tensor may take the hardware's tanh: half precision on NVIDIA."""
    return tensor.is_cuda and tensor.dtype != torch.float32 and _has_tanh(tensor.device)


@functools.cache
def _has_tanh(device: torch.device) -> bool:
    interpreted = triton.knobs.runtime.interpret
    return (
        not interpreted
        and not torch.version.hip
        and torch.cuda.get_device_capability(device) >= (7, 5)
    )


@functools.cache
def processors(device: torch.device) -> int:
    """Streaming multiprocessors of a device; two for the interpreter, so that loops are tested."""
    if device.type != "cuda":
        return 2
    return torch.cuda.get_device_properties(device).multi_processor_count


def register_cap(tensor: Tensor, count: int) -> dict[str, int]:
    """Launch option that caps the registers of a thread, for kernels on half precision.

    Without it the compiler spends registers on the order of instructions, and too few programs fit
    on a multiprocessor to keep memory busy. Float32 tokens take more registers and would spill;
    AMD's compiler has no such option.
    """
    if torch.version.hip or tensor.dtype == torch.float32:
        return {}
    return {"maxnreg": count}
