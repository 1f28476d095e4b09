"""Scenes of drawn shapes on parts of real photographs, with exact masks of what is seen of each.

Photographs are those that come with scikit-learn (china, flower: CC BY) and scikit-image
(astronaut, chelsea, coffee, rocket: public domain or CC0), so nothing is downloaded.
"""

from collections.abc import Mapping, Sequence
from colorsys import hsv_to_rgb
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("disc", "square", "triangle", "star", "cross")
MOST_SHAPES = 5
"""An image has one to this many."""
SMALLEST_PX = 16
"""Least diameter of the circle around a shape."""
DIAMETERS = (0.22, 0.5)
"""Of these circles, in parts of the image's side."""
SEEN = 0.6
"""Part of a shape that later ones leave to be seen, at least."""
ATTEMPTS = 20
"""Places that are tried for a shape before it is left out."""
HUE_RANGE = 0.06
"""Of the colour circle: a shape's hue is that of its class, give or take this. Classes lie a fifth
apart, and photographs have every hue, so that colour helps and does not tell alone."""
FILLS = 5
"""Fills that are tried for a shape; the one that differs most from what it covers is taken."""
SUPERSAMPLING = 4
"""Samples along each side of a pixel: edges are smooth, and a pixel is the shape's from half on."""
HELD_OUT = 1 / 3
"""Right part of each photograph, which only validation images show."""


@dataclass(frozen=True)
class Scene:
    """An image and its shapes, in the order in which they were drawn.

    image
        (size, size, 3) uint8.
    classes
        Index into `SHAPES` of each shape.
    masks
        (shape, size, size) bool: the pixels where each is seen; no two share one.
    """

    image: np.ndarray
    classes: tuple[int, ...]
    masks: np.ndarray


@cache
def photographs(part: str) -> tuple[np.ndarray, ...]:
    """Parts (height, width, 3) uint8 of the photographs: "train" and "val" share no pixel."""
    # both take seconds to import
    from skimage import data
    from sklearn.datasets import load_sample_images

    whole = [
        *load_sample_images().images,
        data.astronaut(),
        data.chelsea(),
        data.coffee(),
        data.rocket(),
    ]
    borders = [round(photograph.shape[1] * (1 - HELD_OUT)) for photograph in whole]
    pairs = zip(whole, borders, strict=True)
    return tuple(p[:, :border] if part == "train" else p[:, border:] for p, border in pairs)


@cache
def textures() -> tuple[np.ndarray, ...]:
    """Grey textures (height, width) uint8: bricks, grass and gravel."""
    from skimage import data

    return data.brick(), data.grass(), data.gravel()


def draw_scene(backgrounds: Sequence[np.ndarray], size: int, random: np.random.Generator) -> Scene:
    """Draw one to five shapes, of any class, size and angle, on a part of a photograph."""
    background = backgrounds[int(random.integers(len(backgrounds)))]
    image = _crop(background, size, random).astype(np.float32)
    classes: list[int] = []
    whole: list[np.ndarray] = []  # pixels of each shape, and of them those that are seen
    seen: list[np.ndarray] = []
    for _ in range(random.integers(1, MOST_SHAPES + 1)):
        kind = int(random.integers(len(SHAPES)))
        cover = _place(SHAPES[kind], size, whole, seen, random)
        if cover is None:
            continue
        mask = cover >= 0.5
        fill = _fill(kind, image[mask].mean(axis=0), size, random)
        image += cover[..., None] * (fill - image)
        seen = [earlier & ~mask for earlier in seen]
        classes.append(kind)
        whole.append(mask)
        seen.append(mask)
    return Scene(image.round().astype(np.uint8), tuple(classes), np.stack(seen))


def _place(
    name: str,
    size: int,
    whole: Sequence[np.ndarray],
    seen: Sequence[np.ndarray],
    random: np.random.Generator,
) -> np.ndarray | None:
    """Part (size, size) of each pixel that a new shape covers; None where it finds no place."""
    for _ in range(ATTEMPTS):
        diameter = max(SMALLEST_PX, size * random.uniform(*DIAMETERS))
        centre = random.uniform(diameter / 2, size - diameter / 2, size=2)
        angle = random.uniform(0, 2 * np.pi)
        cover = _rasterise(centre + diameter / 2 * _outline(name, angle), size)
        hidden = cover >= 0.5
        left = [(s & ~hidden).sum() >= SEEN * w.sum() for s, w in zip(seen, whole, strict=True)]
        if all(left):
            return cover
    return None


def _outline(name: str, angle: float) -> np.ndarray:
    """Corners (corner, 2), x and y, of a shape in the unit circle."""
    corners: Mapping[str, int] = {"disc": 64, "square": 4, "triangle": 3, "star": 10, "cross": 12}
    turns = np.arange(corners[name]) * 2 * np.pi / corners[name]
    radii = np.ones(corners[name])
    if name == "star":
        radii[1::2] = 0.42
    if name == "cross":  # arms a third as wide as they reach from tip to tip
        tip, notch = np.arctan(1 / 3), np.sqrt(0.2)
        quarters = np.arange(4)[:, None] * np.pi / 2
        turns = (quarters + np.array([-tip, tip, np.pi / 4])).ravel()
        radii = np.tile([1.0, 1.0, notch], 4)
    return np.stack([np.cos(turns + angle), np.sin(turns + angle)], axis=1) * radii[:, None]


def _rasterise(corners: np.ndarray, size: int) -> np.ndarray:
    """Part (size, size) of each pixel, 0 to 1, that a polygon covers."""
    canvas = Image.new("L", (size * SUPERSAMPLING, size * SUPERSAMPLING))
    points = [(x, y) for x, y in (corners * SUPERSAMPLING - 0.5).tolist()]
    ImageDraw.Draw(canvas).polygon(points, fill=1)
    fine = np.asarray(canvas, np.float32)
    return fine.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING).mean(axis=(1, 3))


def _fill(kind: int, beneath: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """Colours (size, size, 3) of a class, plain or textured, far from the mean (3,) `beneath`."""
    hues = kind / len(SHAPES) + random.uniform(-HUE_RANGE, HUE_RANGE, size=FILLS)
    vivid = [(random.uniform(0.6, 1), random.uniform(0.5, 1)) for _ in hues]
    rgb = [hsv_to_rgb(hue % 1, *rest) for hue, rest in zip(hues, vivid, strict=True)]
    colours = 255 * np.array(rgb)
    colour = colours[np.linalg.norm(colours - beneath, axis=1).argmax()]
    if random.random() < 0.5:
        return np.broadcast_to(colour, (size, size, 3)).astype(np.float32)
    choice = textures()
    grey = _crop(choice[random.integers(len(choice))], size, random).astype(np.float32)
    grey -= grey.mean()
    contrast = 30 / max(float(grey.std()), 1.0)
    return np.clip(colour + contrast * grey[..., None], 0, 255).astype(np.float32)


def _crop(picture: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """A square of half the picture's shorter side or more, perhaps mirrored, at some size."""
    height, width = picture.shape[:2]
    side = round(min(height, width) * random.uniform(0.5, 1))
    top, left = random.integers(height - side + 1), random.integers(width - side + 1)
    square = Image.fromarray(picture[top : top + side, left : left + side])
    if random.random() < 0.5:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
