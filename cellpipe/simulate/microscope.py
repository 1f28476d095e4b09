"""The microscope: uneven illumination, haze, defocus, plate and well effects, camera."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from cellpipe.simulate.render import STAINS, Scene

CHANNELS = ("Mito", "AGP", "RNA", "ER", "DNA", "HighZBF", "LowZBF", "Brightfield")
"""In the order of JUMP's source 4: ch1 … ch8."""

CAMERA_OFFSET = 100.0
"""Counts that the camera adds to every pixel, dark ones too."""

READ_NOISE = 3.0
"""Standard deviation in counts."""

COUNTS_PER_ELECTRON = 0.5

GAIN = np.array([3200.0, 4200.0, 4600.0, 4400.0, 6500.0])
"""Counts of a structure of brightness 1, by stain."""

BACKGROUND = np.array([240.0, 260.0, 300.0, 280.0, 160.0])
"""Counts of the medium and the plastic, by stain."""

PSF_PX = np.array([0.85, 0.75, 0.70, 0.70, 0.65])
"""Standard deviation of the blur by stain: longer wavelengths blur more."""

HAZE = 0.10
"""Share of the light that comes back from out of focus, spread over about 10 px."""

TRANSMITTED = 11000.0
"""Counts of the empty field in brightfield."""

DEFOCUS = {"HighZBF": 0.085, "LowZBF": -0.085, "Brightfield": 0.02}
"""Contrast of the curvature of the optical thickness: its sign turns at focus."""


@dataclass(frozen=True)
class Plate:
    """Everything that all fields of one plate share."""

    name: str
    gain: np.ndarray
    """(8,) staining or lamp strength relative to the other plates."""
    background: np.ndarray
    """(5,) relative to BACKGROUND."""
    blur_px: float
    """Standard deviation of the extra blur of this plate's focus."""
    flatfield: np.ndarray
    """(8, y, x) float32, mean 1 each."""


def draw_plate(name: str, size: int, rng: np.random.Generator) -> Plate:
    """Draw the batch effects of one plate."""
    return Plate(
        name=name,
        gain=np.concatenate([rng.lognormal(0, 0.12, len(STAINS)), rng.lognormal(0, 0.03, 3)]),
        background=rng.lognormal(0, 0.15, len(STAINS)),
        blur_px=rng.uniform(0.1, 0.5),
        flatfield=np.stack([_vignette(size, rng) for _ in CHANNELS]),
    )


def _vignette(size: int, rng: np.random.Generator) -> np.ndarray:
    """Parabola, 20 to 30 % lower at the far corner than at its off-centre top; mean 1."""
    top = rng.uniform(-0.25, 0.25, 2)
    stretch = rng.uniform(0.8, 1.25)
    fall = rng.uniform(0.20, 0.30)
    axis = np.linspace(-0.5, 0.5, size)
    square = (axis[:, None] - top[0]) ** 2 * stretch + (axis[None] - top[1]) ** 2 / stretch
    profile = 1 - fall * square / square.max()
    return (profile / profile.mean()).astype(np.float32)


def well_brightness(row: int, column: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a well's staining, (5,), relative to its plate: gradient, dim edges, own pipetting."""
    gradient = 1 + 0.012 * (row - 2.5) - 0.010 * (column - 3.5)
    edge = 0.90 if row in (0, 15) or column in (0, 23) else 1.0
    return gradient * edge * rng.lognormal(0, 0.04, len(STAINS))


def expose(
    scene: Scene,
    plate: Plate,
    brightness: np.ndarray,
    noise: list[np.random.Generator],
) -> np.ndarray:
    """Photograph a scene: (8, y, x) uint16 counts, channels in the order of CHANNELS.

    Light = background + blurred stain + haze, times the illumination; the camera adds shot noise,
    read noise and its offset. `brightness` is (5,), the well's; `noise` holds a generator for each
    channel.
    """
    images = np.empty((len(CHANNELS), *scene.height.shape), np.uint16)
    for index, channel in enumerate(CHANNELS):
        if index < len(STAINS):
            light = _fluorescence(scene.stains[index], index, plate, brightness[index])
        else:
            light = _transmission(scene.height, channel, plate) * plate.gain[index]
        light = light * plate.flatfield[index]
        deviation = np.sqrt(light * COUNTS_PER_ELECTRON + READ_NOISE**2, dtype=np.float32)
        grain = noise[index].standard_normal(light.shape, dtype=np.float32)
        counts = light + deviation * grain + CAMERA_OFFSET
        images[index] = np.clip(np.rint(counts), 0, 65535).astype(np.uint16)
    return images


def _fluorescence(stain: np.ndarray, index: int, plate: Plate, brightness: float) -> np.ndarray:
    sharp = ndimage.gaussian_filter(stain, float(np.hypot(PSF_PX[index], plate.blur_px)))
    haze = _wide_blur(stain)
    signal = GAIN[index] * plate.gain[index] * brightness * ((1 - HAZE) * sharp + HAZE * haze)
    return (BACKGROUND[index] * plate.background[index] + signal).astype(np.float32)


def _wide_blur(image: np.ndarray) -> np.ndarray:
    """Blur by about 10 px, at an eighth of the resolution to be quick."""
    size = image.shape[0]
    coarse = ndimage.uniform_filter(image, 8, mode="nearest")[4::8, 4::8]
    coarse = ndimage.gaussian_filter(coarse, 1.2, mode="nearest")
    position = (np.arange(size) - 4) / 8
    lower = np.clip(np.floor(position).astype(int), 0, coarse.shape[0] - 2)
    weight = np.clip(position - lower, 0, 1).astype(np.float32)
    rows = coarse[lower] * (1 - weight)[:, None] + coarse[lower + 1] * weight[:, None]
    return rows[:, lower] * (1 - weight) + rows[:, lower + 1] * weight


def _transmission(height: np.ndarray, channel: str, plate: Plate) -> np.ndarray:
    """Transport of intensity: out of focus, brightness follows the curvature of the thickness."""
    near = channel == "Brightfield"
    smooth = ndimage.gaussian_filter(height, float(np.hypot(0.6 if near else 1.2, plate.blur_px)))
    curvature = ndimage.laplace(smooth)
    absorbed = 0.012 * smooth
    return (TRANSMITTED * (1 - absorbed + DEFOCUS[channel] * 6 * curvature)).astype(np.float32)
