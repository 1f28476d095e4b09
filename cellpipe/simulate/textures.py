"""Textures from which every cell cuts its own piece: chromatin, threads, fibres, puncta."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft

SIZE = 512
"""Side of a texture in pixels."""

FIBRE_DIRECTIONS = 18
"""Directions, evenly spaced over half a turn, in which actin fibres are drawn."""


@dataclass(frozen=True)
class Textures:
    """(SIZE, SIZE) float32 each. Noises have mean 0 and variance 1, the others mean 1."""

    fine: np.ndarray
    coarse: np.ndarray
    threads: np.ndarray
    puncta: np.ndarray
    reticulum: np.ndarray
    cisternae: np.ndarray
    fibres: np.ndarray
    """(FIBRE_DIRECTIONS, SIZE, SIZE)"""


@lru_cache(maxsize=1)
def textures(seed: int) -> Textures:
    """Draw the textures of a data set; every process of one run draws the same ones."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    patchy = np.clip(1 + 0.4 * _noise(rng, 4.0), 0.2, None)
    angles = np.pi * np.arange(FIBRE_DIRECTIONS) / FIBRE_DIRECTIONS
    return Textures(
        fine=_noise(rng, 1.0),
        coarse=_noise(rng, 2.5),
        # The zero contours of smooth noise are long winding lines.
        threads=_mean_one(patchy * np.exp(-((_noise(rng, 1.6) / 0.35) ** 2))),
        puncta=_mean_one(patchy * np.clip(_noise(rng, 1.3) - 1.1, 0, 1.2)),
        reticulum=_mean_one(
            1.0 + np.exp(-((_noise(rng, 1.1) / 0.5) ** 2)) + 0.25 * _noise(rng, 2.5)
        ),
        cisternae=_mean_one(0.15 + np.clip(_noise(rng, 2.6) + 0.3, 0, None)),
        fibres=np.stack(
            [_mean_one(np.clip(_noise(rng, 0.7, 9.0, angle) - 0.3, 0, None)) for angle in angles]
        ),
    )


def _noise(
    rng: np.random.Generator, across: float, along: float | None = None, angle: float = 0.0
) -> np.ndarray:
    """Periodic Gaussian noise of a given correlation length across and along a direction."""
    along = across if along is None else along
    fy = fft.fftfreq(SIZE)[:, None]
    fx = fft.rfftfreq(SIZE)[None]
    parallel = fx * np.cos(angle) + fy * np.sin(angle)
    normal = fy * np.cos(angle) - fx * np.sin(angle)
    kernel = np.exp(-2 * np.pi**2 * ((along * parallel) ** 2 + (across * normal) ** 2))
    smooth = fft.irfft2(fft.rfft2(rng.standard_normal((SIZE, SIZE))) * kernel, s=(SIZE, SIZE))
    return ((smooth - smooth.mean()) / smooth.std()).astype(np.float32)


def _mean_one(texture: np.ndarray) -> np.ndarray:
    return (texture / texture.mean()).astype(np.float32)
