"""Registering a function as an operator that the compiler does not look into."""

import functools
import importlib
import inspect
import os
from collections.abc import Callable
from typing import Any

import torch
from torch.library import CustomOpDef, custom_op

BACKENDS = ("auto", "triton", "torch", "inductor")

_REFERENCES: dict[str, Callable[..., Any]] = {}


def use_triton(tensor: torch.Tensor) -> bool:
    """Whether Triton computes on this tensor, by the environment variable FASTVIM_BACKEND.

    "auto", the default, is Triton for CUDA tensors and PyTorch for others and for float64, which
    the kernels do not compute in; "triton" and "torch" force one; "inductor" is "auto" with
    inference on a CPU compiled by PyTorch's compiler. Raises ValueError for another value, and for
    "triton" with float64 or with a tensor that is not on a CUDA device, unless Triton's interpreter
    is on (TRITON_INTERPRET=1).
    """
    backend = os.environ.get("FASTVIM_BACKEND", "auto")
    if backend not in BACKENDS:
        raise ValueError(f"FASTVIM_BACKEND: expected one of {BACKENDS}, got {backend!r}")
    if backend == "triton" and not tensor.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"FASTVIM_BACKEND=triton: expected a tensor on a CUDA device, got {tensor.device}; "
            "move it there, or set TRITON_INTERPRET=1 before Triton is imported"
        )
    narrow = tensor.dtype != torch.float64
    if backend == "triton" and not narrow:
        raise ValueError(
            "FASTVIM_BACKEND=triton: expected float32 or half precision, got float64; "
            "set FASTVIM_BACKEND=torch for it"
        )
    return backend == "triton" or (backend != "torch" and tensor.is_cuda and narrow)


def use_inductor(tensor: torch.Tensor) -> bool:
    """Whether PyTorch's compiler serves this tensor: on a CPU, if FASTVIM_BACKEND is "inductor"."""
    return tensor.device.type == "cpu" and os.environ.get("FASTVIM_BACKEND") == "inductor"


def implementation(name: str, tensor: torch.Tensor) -> Callable[..., Any]:
    """Return what computes an operation on this tensor, below autograd and the dispatcher.

    The reference in PyTorch or, where `use_triton` says so, `forward` of the module
    `fastvim_kernels.gpu.<name>`; `backward` of `gpu.<stem>` if the name is `<stem>_backward`. Where
    `use_inductor` does, what the module `fastvim_kernels.inductor` has of that name.
    """
    if not use_triton(tensor):
        found = _REFERENCES[name]
        if use_inductor(tensor):
            found = getattr(importlib.import_module("fastvim_kernels.inductor"), name, found)
        return found
    stem = name.removesuffix("_backward")
    kernels = importlib.import_module(f"fastvim_kernels.gpu.{stem}")
    return getattr(kernels, "forward" if stem == name else "backward")


def operator(name: str) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """Register a function on tensors as `torch.ops.fastvim.<name>`, for every device.

    The first argument is a tensor, and the results are fresh ones. Autocast is off inside, as it
    would turn float32 arithmetic into less. An operator has no optional results: an empty tensor
    stands for the gradient of an absent argument. Keyword-only parameters are not the operator's.
    """

    def register(function: Callable[..., Any]) -> CustomOpDef:
        @functools.wraps(function)
        def without_autocast(first: torch.Tensor, *rest: Any) -> Any:
            # Triton launches on the current device, whatever device its arguments are on
            with (
                torch.cuda.device_of(first),
                torch.autocast(first.device.type, enabled=False),
            ):
                return function(first, *rest)

        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY]
        without_autocast.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
        return custom_op(f"fastvim::{name}", without_autocast, mutates_args=())

    return register


def reference(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register what `implementation` returns where Triton does not compute."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _REFERENCES[name] = function
        return function

    return register


def operation(name: str) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """Register a reference, and the `operator` that runs whatever `implementation` chooses."""

    def register(function: Callable[..., Any]) -> CustomOpDef:
        @functools.wraps(function)
        def chosen(first: torch.Tensor, *rest: Any) -> Any:
            return implementation(name, first)(first, *rest)

        reference(name)(function)
        return operator(name)(chosen)

    return register


def product_dtype(tensor: torch.Tensor) -> torch.dtype:
    """Dtype in which a matrix product of this tensor is taken: autocast's, or the tensor's own."""
    device = tensor.device.type
    able = not tensor.is_meta and tensor.dtype != torch.float64
    cast = able and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if cast else tensor.dtype


def keeps_for_backward(*inputs: Any) -> bool:
    """Whether an operation on these inputs must keep what its backward pass needs.

    An exported program has no backward pass. Inside Dynamo some versions of PyTorch take every
    compilation for an export.
    """
    exporting = torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()
    needed = any(isinstance(v, torch.Tensor) and v.requires_grad for v in inputs)
    return torch.is_grad_enabled() and needed and not exporting
