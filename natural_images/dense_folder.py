"""The folder of a segmenter or a detector: its weights, and what is to be known of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastvim.files import atomic_path
from natural_images.errors import NaturalImagesDataError

WEIGHTS, DESCRIPTION = "model.safetensors", "natural_images.json"


def save_folder(model: nn.Module, output: Path, described: Mapping[str, Any]) -> None:
    """Write a model's folder; it appears whole, in place of an earlier one.

    described
        What JSON can hold.
    """
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    with atomic_path(Path(output)) as temporary:
        temporary.mkdir()
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        (temporary / DESCRIPTION).write_text(json.dumps(described, indent=2) + "\n")


def read_folder(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `save_folder` wrote: the description, and tensors on the CPU by their names.

    Raises NaturalImagesDataError for what is no such folder, or a damaged one.
    """
    path = Path(path)
    absent = [name for name in (DESCRIPTION, WEIGHTS) if not (path / name).is_file()]
    if absent:
        raise NaturalImagesDataError(
            f"{path}: expected a model folder with {DESCRIPTION} and {WEIGHTS}, found no "
            f"{' and no '.join(absent)}. Training writes such folders"
        )
    try:
        return json.loads((path / DESCRIPTION).read_text()), load_file(path / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise NaturalImagesDataError(
            f"{path}: cannot be read ({error}). Copy it again or train again"
        ) from error
