"""Models by name."""

import difflib
import fnmatch
from collections.abc import Callable
from typing import Any

from torch import nn

_BUILDERS: dict[str, Callable[..., nn.Module]] = {}


def register_model(builder: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Make a function that builds a model available under its own name."""
    name = builder.__name__
    if name in _BUILDERS:
        raise ValueError(
            f"model {name!r} is registered twice: "
            f"by {_BUILDERS[name].__module__} and by {builder.__module__}"
        )
    _BUILDERS[name] = builder
    return builder


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that match a shell-style pattern, sorted."""
    return sorted(fnmatch.filter(_BUILDERS, pattern))


def create_model(name: str, **overrides: Any) -> nn.Module:
    """Build a model by name; `overrides` replace its constructor options.

    Raises ValueError for an unknown name and TypeError for an unknown option.
    """
    if name not in _BUILDERS:
        near = difflib.get_close_matches(name, _BUILDERS)
        hint = f"Did you mean one of {near}?" if near else f"Known models: {list_models()}"
        raise ValueError(f"Unknown model {name!r}. {hint}")
    return _BUILDERS[name](**overrides)
