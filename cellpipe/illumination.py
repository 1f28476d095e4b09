"""Flat-field correction: estimate it from a plate, read a published one, apply it.

The camera records ``image = offset + flatfield * light``. As CIDRE and BaSiC do, the estimate
assumes a field that is smooth and the same in every site. It takes, at each pixel, a low percentile
over the sites, which is background whatever the cells there do, and fits a polynomial to its
logarithm, as Harmony's own profiles are polynomials.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from scipy.io import loadmat
from skimage.transform import resize_local_mean

from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.plate import Plate
from fastvim.files import atomic_path

log = logging.getLogger(__name__)

DEGREE = 4
"""Degree of the polynomial in (y, x); the degree of Harmony's FlatfieldProfile."""

PERCENTILE = 10
"""Percentile over sites. On simulated plates (96 sites, truth known, eight channels) the largest
error of the field is 3 %; with the median it is 8 %, with the mean 40 %."""

GRID = 64
"""Sites are reduced to this many pixels a side first: the field is smooth."""

MAXIMUM_SITES = 500
"""Sites used for the estimate, spread evenly over the plate; bounds memory to 70 MB."""


@dataclass(frozen=True)
class Illumination:
    """Flat fields of one plate: `flatfield` by channel name, (y, x) float32 with mean 1."""

    flatfield: Mapping[str, np.ndarray]
    offset: float

    def correct(self, image: np.ndarray, channels: tuple[str, ...]) -> np.ndarray:
        """Undo offset and flat field of a (channel, y, x) image; returns float32 counts >= 0."""
        corrected = np.empty(image.shape, np.float32)
        for index, channel in enumerate(channels):
            np.subtract(image[index], np.float32(self.offset), out=corrected[index])
            corrected[index] /= self.flatfield[channel]
        return np.maximum(corrected, 0, out=corrected)

    def save(self, path: Path) -> None:
        """Write an ``.npz`` with one float32 array a channel and the offset."""
        # A prefix keeps channel names apart from the offset, whatever they are.
        arrays: dict[str, Any] = {f"flatfield/{name}": a for name, a in self.flatfield.items()}
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, offset=np.float32(self.offset), **arrays)

    @classmethod
    def load(cls, path: Path) -> "Illumination":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as archive:
            fields = {
                name.removeprefix("flatfield/"): archive[name]
                for name in archive.files
                if name != "offset"
            }
            return cls(fields, float(archive["offset"]))


def illumination(
    sites: Path,
    *,
    output: Path,
    camera_offset: float = 0.0,
    minimum_sites: int = 16,
    published: Mapping[str, Path] | None = None,
) -> None:
    """Estimate the flat field of every channel of a plate and write it to `output` (``.npz``).

    Parameters
    ----------
    sites
        The plate's site table.
    camera_offset
        Counts that the camera adds to a dark image; subtracted before anything is divided.
    minimum_sites
        Below this many sites nothing is estimated and the field is 1 everywhere: a percentile over
        a few fields would take cells for shading.
    published
        Flat fields to use instead of an estimate, by channel name: ``.npy`` or CellProfiler's
        ``.mat``, of the site's shape; they are scaled to mean 1.
    """
    plate = Plate.open(sites)
    published = published or {}
    unknown = sorted(set(published) - set(plate.channels))
    if unknown:
        raise CellpipeValueError(
            f"illumination.published names channels {unknown} that plate {plate.name} lacks; "
            f"it has {list(plate.channels)}"
        )
    shape = (int(plate.sites["height"].iloc[0]), int(plate.sites["width"].iloc[0]))
    estimated = [channel for channel in plate.channels if channel not in published]
    fields = {channel: _read_published(path, shape) for channel, path in published.items()}
    if len(plate.sites) < minimum_sites:
        if estimated:
            log.warning(
                "plate %s: %d sites are too few to estimate shading (illumination.minimum_sites is "
                "%d); %s stay uncorrected",
                *(plate.name, len(plate.sites), minimum_sites, ", ".join(estimated)),
            )
        fields |= {channel: np.ones(shape, np.float32) for channel in estimated}
    elif estimated:
        fields |= _estimate(plate, estimated, shape, camera_offset)
    Illumination({name: fields[name] for name in plate.channels}, camera_offset).save(output)


def _estimate(
    plate: Plate, channels: list[str], shape: tuple[int, int], offset: float
) -> dict[str, np.ndarray]:
    count = min(len(plate.sites), MAXIMUM_SITES)
    rows = np.linspace(0, len(plate.sites) - 1, count).round().astype(int)
    grid = (min(GRID, shape[0]), min(GRID, shape[1]))
    stack = np.empty((len(channels), count, *grid), np.float32)
    for index, row in enumerate(track(rows, f"Reading {plate.name}")):
        image = plate.read(int(row), channels).astype(np.float32) - offset
        for channel, plane in enumerate(image):
            small = resize_local_mean(plane, grid)
            # Wells differ in brightness and cell density; only the shape within a site counts.
            stack[channel, index] = small / max(float(np.percentile(small, 25)), 1e-3)
    return {
        channel: _fit_polynomial(np.percentile(stack[index], PERCENTILE, axis=0), shape)
        for index, channel in enumerate(channels)
    }


def _fit_polynomial(background: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Least-squares polynomial through log(background), evaluated at `shape`, with mean 1."""
    design = _polynomial_terms(background.shape)
    logarithm = np.log(np.maximum(background, 1e-3)).ravel()
    coefficients, *_ = np.linalg.lstsq(design, logarithm, rcond=None)
    field = np.exp(_polynomial_terms(shape) @ coefficients).reshape(shape)
    return (field / field.mean()).astype(np.float32)


def _polynomial_terms(shape: tuple[int, ...]) -> np.ndarray:
    """All y^i x^j with i + j <= DEGREE at pixel centres in [-1, 1]: (pixel, term)."""
    axes = [(np.arange(side) + 0.5) / side * 2 - 1 for side in shape]
    y, x = (grid.ravel() for grid in np.meshgrid(*axes, indexing="ij"))
    return np.stack([y**i * x**j for i in range(DEGREE + 1) for j in range(DEGREE + 1 - i)], axis=1)


def _read_published(path: Path, shape: tuple[int, int]) -> np.ndarray:
    try:
        if path.suffix == ".mat":
            arrays = [
                value for value in loadmat(path).values() if np.shape(value) and np.ndim(value) == 2
            ]
            field = max(arrays, key=np.size)
        else:
            field = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CellpipeDataError(
            f"illumination.published: cannot read {path}: {error}. "
            "Give a .npy array or a CellProfiler .mat of the field's shape"
        ) from error
    if field.shape != shape or not np.all(np.isfinite(field)) or field.min() <= 0:
        raise CellpipeDataError(
            f"illumination.published: {path}: expected finite positive values of shape {shape}, "
            f"got shape {field.shape} from {field.min()} to {field.max()}"
        )
    return (field / field.mean()).astype(np.float32)
