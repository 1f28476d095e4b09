"""Registering a function as an operator that the compiler does not look into."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.library import CustomOpDef, custom_op


def operation(name: str) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """Register a function on tensors as `torch.ops.fastvim.<name>`, for every device.

    The first argument is a tensor, and the results are fresh contiguous ones. Autocast is off
    inside, as it would turn float32 arithmetic into less. An operator has no optional results: an
    empty tensor stands for the gradient of an absent argument.
    """

    def register(function: Callable[..., Any]) -> CustomOpDef:
        @functools.wraps(function)
        def without_autocast(first: torch.Tensor, *rest: Any) -> Any:
            with torch.autocast(first.device.type, enabled=False):
                return function(first, *rest)

        return custom_op(f"fastvim::{name}", without_autocast, mutates_args=())

    return register
