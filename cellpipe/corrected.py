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
    def open(cls, sites: Path, illumination: Path) -> "CorrectedPlate":
        """Open a plate by its site table and its flat fields."""
        times = (sites.stat().st_mtime_ns, illumination.stat().st_mtime_ns)
        return _open(sites, illumination, times)

    def read(self, row: int, channels: Sequence[str] | None = None) -> np.ndarray:
        """Corrected image of the site at `row` of the site table: (channel, y, x) float32 >= 0."""
        names = tuple(channels) if channels is not None else self.plate.channels
        return self.illumination.correct(self.plate.read(row, names), names)


@lru_cache(maxsize=1)  # a worker reads many sites of one plate, one after another
def _open(sites: Path, illumination: Path, times: tuple[int, int]) -> CorrectedPlate:
    """Open anew only what has changed since the last call, as `times` tells."""
    return CorrectedPlate(Plate.open(sites), Illumination.load(illumination))
