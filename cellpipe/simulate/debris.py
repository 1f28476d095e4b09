"""Specks of dead cells and dust: bright in every stain, dark in brightfield, and not cells."""

import numpy as np
import pandas as pd

from cellpipe.simulate.render import STAINS, Scene

SPECKS_PER_PX2 = 4 / 320**2


def scatter_debris(size: int, rng: np.random.Generator) -> pd.DataFrame:
    """Draw the specks of a field: y, x and sigma in px, and a brightness for each stain."""
    count = int(rng.poisson(SPECKS_PER_PX2 * size**2))
    table = pd.DataFrame({"y": rng.uniform(0, size, count), "x": rng.uniform(0, size, count)})
    table["sigma_px"] = rng.uniform(0.7, 1.5, count)
    overall = rng.lognormal(-0.2, 0.4, count)
    for stain in STAINS:
        table[f"brightness_{stain}"] = overall * rng.beta(1.0, 1.5, count)
    return table


def add_debris(scene: Scene, debris: pd.DataFrame) -> None:
    """Add the specks to a scene, in place."""
    size = scene.height.shape[0]
    axis = np.arange(size, dtype=np.float32)
    for speck in debris.to_dict("records"):
        scale = -0.5 / speck["sigma_px"] ** 2
        spot = np.exp(scale * (axis - speck["y"]) ** 2)[:, None] * np.exp(
            scale * (axis - speck["x"]) ** 2
        )
        for index, stain in enumerate(STAINS):
            scene.stains[index] += (speck[f"brightness_{stain}"] * spot).astype(np.float32)
        scene.height[:] += (1.2 * spot).astype(np.float32)
