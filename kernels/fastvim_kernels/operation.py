"""Registering a function as an operator that the compiler does not look into."""

import functools
import importlib
import os
from collections.abc import Callable
from typing import Any

import torch
from torch.library import CustomOpDef, custom_op

BACKENDS = ("auto", "triton", "torch")


def use_triton(tensor: torch.Tensor) -> bool:
    """Whether Triton computes on this tensor, by the environment variable FASTVIM_BACKEND.

    "auto", the default, is Triton for CUDA tensors and PyTorch for others; "triton" and "torch"
    force one. Raises ValueError for another value, and for "triton" with a tensor that is not on
    a CUDA device, unless Triton's interpreter is on (TRITON_INTERPRET=1).
    """
    backend = os.environ.get("FASTVIM_BACKEND", "auto")
    if backend not in BACKENDS:
        raise ValueError(f"FASTVIM_BACKEND: expected one of {BACKENDS}, got {backend!r}")
    if backend == "triton" and not tensor.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"FASTVIM_BACKEND=triton: expected a tensor on a CUDA device, got {tensor.device}; "
            "move it there, or set TRITON_INTERPRET=1 before Triton is imported"
        )
    return backend == "triton" or (backend == "auto" and tensor.is_cuda)


def operation(name: str) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """Register a function on tensors as `torch.ops.fastvim.<name>`, for every device.

    The function is the reference in PyTorch. Where `use_triton` says so, `forward` of the module
    `fastvim_kernels.gpu.<name>` takes its place, and `backward` of `gpu.<stem>` if the name is
    `<stem>_backward`.

    The first argument is a tensor, and the results are fresh ones. Autocast is off inside, as it
    would turn float32 arithmetic into less. An operator has no optional results: an empty tensor
    stands for the gradient of an absent argument.
    """
    stem = name.removesuffix("_backward")
    part = "forward" if stem == name else "backward"

    def register(function: Callable[..., Any]) -> CustomOpDef:
        @functools.wraps(function)
        def without_autocast(first: torch.Tensor, *rest: Any) -> Any:
            if use_triton(first):
                kernels = importlib.import_module(f"fastvim_kernels.gpu.{stem}")
                # Triton launches on the current device, whatever device its arguments are on
                with torch.cuda.device_of(first):
                    return getattr(kernels, part)(first, *rest)
            with torch.autocast(first.device.type, enabled=False):
                return function(first, *rest)

        return custom_op(f"fastvim::{name}", without_autocast, mutates_args=())

    return register
