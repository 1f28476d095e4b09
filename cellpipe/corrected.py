"""A plate seen through its flat-field correction, as every stage after illumination reads it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from cellpipe.illumination import Illumination
from cellpipe.plate import Plate


@dataclass(frozen=True)
class CorrectedPlate:
    """Pixels of a plate in counts above the camera's offset, freed of shading."""

    plate: Plate
    illumination: Illumination

    @classmethod
    @lru_cache(maxsize=1)  # a worker reads many sites of one plate, one after another
    def open(cls, sites: Path, illumination: Path) -> "CorrectedPlate":
        """Open a plate by its site table and its flat fields."""
        return cls(Plate.open(sites), Illumination.load(illumination))

    def read(self, row: int, channels: Sequence[str] | None = None) -> np.ndarray:
        """Corrected image of the site at `row` of the site table: (channel, y, x) float32 >= 0."""
        names = tuple(channels) if channels is not None else self.plate.channels
        return self.illumination.correct(self.plate.read(row, names), names)
