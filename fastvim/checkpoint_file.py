"""Tensors out of checkpoint files, without running anything that the files bring along."""

import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

Entries = dict[str, dict[str, Tensor]]


class _Mapping:
    """Makes an empty dictionary for an object of some foreign class.

    Whatever the file then puts into the object lands in that dictionary or in its attributes.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


class _Sequence:
    """Makes an empty list for a foreign sequence."""

    def __new__(cls, *args: Any, **kwargs: Any) -> list[Any]:  # type: ignore[misc]
        return []


class _Object:
    """Stands for objects whose state is a tuple."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _placeholder(name: str) -> type:
    if name == "collections.deque":
        return _Sequence
    return _Object if name.startswith(("numpy.", "_codecs.", "functools.")) else _Mapping


def read_tensors(path: str | Path) -> Entries:
    """Every dictionary of tensors in a checkpoint, by the name of its entry.

    A file that is one such dictionary itself (safetensors, bare state dicts) has the name "".

    Loggers, optimisers and configurations that training frameworks save beside the weights are
    replaced by placeholders: their classes are neither imported nor called.

    Raises FileNotFoundError, and ValueError for a file that holds no tensors or does not open.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint file")
    content = _read(path)
    entries = {"": content, **{k: v for k, v in content.items() if isinstance(v, dict)}}
    found: Entries = {}
    for name, entry in entries.items():
        tensors = {k: v for k, v in entry.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if tensors:
            found[name] = tensors
    if not found:
        raise ValueError(
            f"{path}: expected a state dict or a checkpoint with one, found no tensors in it"
        )
    return found


def _read(path: Path) -> dict[Any, Any]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: not a safetensors file ({error})") from error
    try:
        # every class or function that PyTorch does not trust becomes a placeholder
        names = (
            torch.serialization.get_unsafe_globals_in_checkpoint(path)
            if zipfile.is_zipfile(path)
            else []
        )
        with torch.serialization.safe_globals([(_placeholder(name), name) for name in names]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        reason = re.search(r"(?:Unsupported|Trying to|Can only)[^\n]*", str(error))
        raise ValueError(
            f"{path}: not a checkpoint of tensors and plain values alone, so it is not opened, as "
            f"that could run code ({reason[0] if reason else error}). If you trust the file, keep "
            f"its weights alone, where what wrote it is installed:\n"
            f"    state = torch.load({path.name!r}, map_location='cpu', weights_only=False)\n"
            f"    safetensors.torch.save_file(state['state_dict'], {path.stem + '.safetensors'!r})"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dictionary, got {type(content).__name__}")
    return content
