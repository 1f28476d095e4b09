"""Registering a function as an operator that the compiler does not look into."""

import functools
import importlib
import inspect
import os
from collections.abc import Callable
from typing import Any

import torch
from torch.library import CustomOpDef, custom_op

from fastvim_kernels.cpu.library import library

BACKENDS = ("auto", "triton", "native", "torch")

REFERENCES: dict[str, Callable[..., Any]] = {}


def use_triton(tensor: torch.Tensor) -> bool:
    """Whether Triton computes on this tensor, by the environment variable FASTVIM_BACKEND.

    "auto", the default, is Triton for CUDA tensors but those in float64, which the kernels do not
    compute in; "triton" and "torch" force one; for "native" see `use_native`.
    Raises ValueError for another value, and for "triton" with float64 or with a tensor that is not
    on a CUDA device, unless Triton's interpreter is on (TRITON_INTERPRET=1).
    """
    backend = _backend()
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


def use_native(tensor: torch.Tensor) -> bool:
    """Whether C computes on this tensor: if it is float32, on a CPU, and there is a compiler.

    Not if FASTVIM_BACKEND is "torch"; "native" is "auto" that raises RuntimeError where the C
    files can't be built. The first call builds them, in one to three seconds.
    """
    backend = _backend()
    serves = backend in ("auto", "native") and tensor.dtype == torch.float32
    if not serves or tensor.device.type != "cpu":
        return False
    built = library() is not None
    if backend == "native" and not built:
        raise RuntimeError("FASTVIM_BACKEND=native: there is no library; a warning says why")
    return built


def implementation(name: str, tensor: torch.Tensor) -> Callable[..., Any]:
    """Return what computes an operation on this tensor, below autograd and the dispatcher.

    Where `use_triton` says so, `forward` of the module `fastvim_kernels.gpu.<name>`, or `backward`
    of `gpu.<stem>` if the name is `<stem>_backward`. Where `use_native` does, what
    `fastvim_kernels.cpu.operations` has of that name. Otherwise the reference in PyTorch.
    """
    if use_triton(tensor):
        stem = name.removesuffix("_backward")
        kernels = importlib.import_module(f"fastvim_kernels.gpu.{stem}")
        return getattr(kernels, "forward" if stem == name else "backward")
    if use_native(tensor):
        functions = importlib.import_module("fastvim_kernels.cpu.operations")
        return getattr(functions, name, REFERENCES[name])
    return REFERENCES[name]


def _backend() -> str:
    backend = os.environ.get("FASTVIM_BACKEND", "auto")
    if backend not in BACKENDS:
        raise ValueError(f"FASTVIM_BACKEND: expected one of {BACKENDS}, got {backend!r}")
    return backend


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
    """Register what `implementation` returns where neither Triton nor C computes."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        REFERENCES[name] = function
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
