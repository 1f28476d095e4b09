"""YAML files that inherit from one another, and options of a command that replace their values."""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError

BASE = "base"


@dataclass(frozen=True)
class Layer:
    """Some keys, and where they were written: a file, or the command line."""

    origin: str
    values: Mapping[str, Any]


def read_layers(path: Path, overrides: Sequence[str] = ()) -> list[Layer]:
    """A YAML file with everything it inherits, the most basic file first, `overrides` last.

    A file may name another one under ``base``, relative to itself. Raises NaturalImagesDataError
    for a file that is absent or no mapping, and for files that inherit in a circle.
    """
    layers: list[Layer] = []
    seen: list[Path] = []
    following: Path | None = Path(path)
    while following is not None:
        if following.resolve() in seen:
            raise NaturalImagesDataError(
                f"{following}: inherits from itself, by way of {[str(p) for p in seen]}. "
                f"Remove one `{BASE}:`"
            )
        seen.append(following.resolve())
        values = _read(following)
        base = values.pop(BASE, None)
        layers.insert(0, Layer(str(following), values))
        following = following.parent / str(base) if base is not None else None
    if overrides:
        layers.append(Layer("--set", _parse(overrides)))
    return layers


def merge(layers: Iterable[Layer]) -> dict[str, Any]:
    """One mapping of all layers: later ones win, key by key in nested mappings."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merged(merged, layer.values)
    return merged


def check_keys(layers: Iterable[Layer], known: Iterable[str], section: str | None = None) -> None:
    """Raise NaturalImagesValueError for a key of a section, or of the top, that is not `known`."""
    names = sorted(known)
    for layer in layers:
        values = layer.values if section is None else layer.values.get(section)
        if values is None:
            continue
        if not isinstance(values, Mapping):
            raise NaturalImagesValueError(
                f"{layer.origin}: {section}: expected keys among {names}, got {values!r}"
            )
        for key in values:
            if key in names:
                continue
            near = difflib.get_close_matches(str(key), names)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"It knows {names}"
            where = f"{section}.{key}" if section else key
            raise NaturalImagesValueError(f"{layer.origin}: unknown key '{where}'. {hint}")


def parse_options(texts: Iterable[str], option: str) -> dict[str, Any]:
    """``key=value`` texts of a command's `option` as a mapping; values are JSON.

    Raises NaturalImagesValueError that names the option.
    """
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        try:
            if not (key and equals):
                raise ValueError
            values[key] = json.loads(value)
        except ValueError:
            raise NaturalImagesValueError(
                f"{option}: expected `key=value` with a value in JSON, scaling_factor=0.25 say, "
                f"got {text!r}"
            ) from None
    return values


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise NaturalImagesDataError(
            f"{path}: no such configuration ({error.strerror}). The published ones lie in "
            "config/imagenet, mae, ade20k and coco"
        ) from error
    except yaml.YAMLError as error:
        raise NaturalImagesDataError(f"{path}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise NaturalImagesDataError(
            f"{path}: expected a mapping of keys to values, got {type(values).__name__}"
        )
    return values


def _merged(below: Any, above: Any) -> Any:
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    shared = {key: _merged(below[key], above[key]) for key in above if key in below}
    return {**below, **above, **shared}


def _parse(overrides: Sequence[str]) -> dict[str, Any]:
    """``a.b=value`` texts as nested mappings; a value is JSON (1e-3, null) or else YAML."""
    values: dict[str, Any] = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        keys = name.split(".")
        if not equals or not all(keys):
            raise NaturalImagesValueError(
                f"--set: expected `section.key=value`, recipe.epochs=30 say, got {text!r}"
            )
        try:
            parsed = json.loads(value)
        except json.JSONDecodeError:
            parsed = _parse_yaml(name, value)
        for key in reversed(keys):
            parsed = {key: parsed}
        values = _merged(values, parsed)
    return values


def _parse_yaml(name: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    # ValueError: a date such as 2026-13-01.
    except (yaml.YAMLError, ValueError) as error:
        raise NaturalImagesValueError(
            f"--set {name}: expected a value in JSON or YAML, got {value!r}. Quote it, "
            f"""--set '{name}="…"', if it is text"""
        ) from error
