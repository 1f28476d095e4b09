"""A trained FastChannelVim with what it needs to read a plate: channel names and pixel statistics.

A model folder holds the weights and the architecture as fastvim writes them, and ``cellpipe.json``
with the rest.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.pixel_statistics import PixelStatistics
from fastvim import FastChannelVim
from fastvim.files import atomic_path

FILE = "cellpipe.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Preprocessing:
    """How a model sees pixels.

    channels
        Names of the trained channels, in the order of the model's channel embeddings.
    mean, std
        Per channel, in illumination-corrected counts, over the training crops; empty where every
        plate is scaled by its own statistics.
    labels
        Names of the classes, in the order of the model's outputs.
    size_px, pixel_size_um
        Side of the training crops and their pixel size (None where the plate did not say).
    split
        Name of the split that the model was trained on.
    """

    channels: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: tuple[str, ...]
    size_px: int
    pixel_size_um: float | None
    split: str


@dataclass(frozen=True)
class ChannelMatch:
    """Channels that a plate and a model share, by name.

    `names` in the model's order; `model` and `plate` are their positions on either side; `missing`
    are trained but not on the plate, `unknown` on the plate but never trained.
    """

    names: tuple[str, ...]
    model: tuple[int, ...]
    plate: tuple[int, ...]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class TrainedModel:
    """A model, its preprocessing, and the SHA-256 of its weights file."""

    model: FastChannelVim
    preprocessing: Preprocessing
    weights_sha256: str

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu") -> "TrainedModel":
        """Read a model folder; raises CellpipeDataError when it is not one."""
        try:
            described: dict[str, Any] = json.loads((folder / FILE).read_text())
            for key, value in described.items():
                described[key] = tuple(value) if isinstance(value, list) else value
            preprocessing = Preprocessing(**described)
            model = FastChannelVim.from_pretrained(folder)
            digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        except (OSError, TypeError, ValueError) as error:
            raise CellpipeDataError(
                f"{folder}: not a model folder of cellpipe train ({error}). "
                f"It needs config.json, {WEIGHTS} and {FILE}"
            ) from error
        return cls(model.to(device).eval(), preprocessing, digest)

    def match_channels(self, available: Sequence[str], *, where: str) -> ChannelMatch:
        """Match a plate's channels with the model's by name; at least one must be shared."""
        trained = self.preprocessing.channels
        names = tuple(name for name in trained if name in available)
        if not names:
            raise CellpipeValueError(
                f"{where} has channels {list(available)}, none of which the model was trained on: "
                f"{list(trained)}. Name the plate's channels at ingest"
            )
        return ChannelMatch(
            names=names,
            model=tuple(trained.index(name) for name in names),
            plate=tuple(list(available).index(name) for name in names),
            missing=tuple(name for name in trained if name not in available),
            unknown=tuple(name for name in available if name not in trained),
        )

    def statistics(self, match: ChannelMatch, of_plate: PixelStatistics) -> PixelStatistics:
        """What scales the matched channels of a plate whose own statistics are `of_plate`."""
        if not self.preprocessing.mean:
            return of_plate.take(np.array(match.plate))
        trained = PixelStatistics(
            np.array(self.preprocessing.mean), np.array(self.preprocessing.std)
        )
        return trained.take(np.array(match.model))


def save_trained(model: FastChannelVim, preprocessing: Preprocessing, folder: Path) -> None:
    """Write a model folder atomically."""
    with atomic_path(folder) as temporary:
        model.save_pretrained(temporary)
        (temporary / FILE).write_text(json.dumps(asdict(preprocessing), indent=2) + "\n")
