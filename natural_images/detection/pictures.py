"""Photographs with the objects in them drawn over: masks, boxes, names."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from skimage.segmentation import find_boundaries

from fastvim.files import atomic_path
from natural_images.detection.outlines import mask_api
from natural_images.detection.predictions import Instances
from natural_images.figures import shortened
from natural_images.segmentation.overlay import palette

SHORTEST, LONGEST = 640, 1333
"""Longer side of a drawn photograph in px: small ones are enlarged, or names would hide them."""
OPACITY = 0.5
"""Of a mask over the photograph."""
EDGE = 255.0
"""White, so that masks of one colour are told apart, and a mask from what it covers."""
FONT_PX, TITLE_PX = 15, 19
MARGIN = 12

Box = tuple[float, float, float, float]


def draw_instances(image: Image.Image, instances: Instances, classes: Sequence[str]) -> Image.Image:
    """Draw objects over an RGB photograph, the surest on top, in one colour a class.

    classes
        Names of all classes.
    """
    factor = min(max(1.0, SHORTEST / max(image.size)), LONGEST / max(image.size))
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    colours = palette(len(classes))
    pixels = np.asarray(image.resize(size, Image.Resampling.LANCZOS)).astype(np.float32)
    for label, mask in zip(instances.classes[::-1], instances.masks[::-1], strict=True):
        covered = _resized(mask_api.decode(mask), size)
        pixels[covered] += OPACITY * (colours[label] - pixels[covered])
        pixels[find_boundaries(covered, mode="thick")] = EDGE
    drawn = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(drawn)
    boxes = instances.boxes * factor
    for box, label in zip(boxes[::-1], instances.classes[::-1], strict=True):
        pen.rectangle(_corners(box, size), outline=tuple(colours[label].tolist()), width=2)
    taken: list[Box] = []
    for place, (box, label) in enumerate(zip(boxes, instances.classes, strict=True)):
        text = shortened(classes[label])
        if instances.scores is not None:
            text = f"{text} {instances.scores[place]:.2f}"
        _write_name(pen, text, box, size, tuple(colours[label].tolist()), taken)
    return drawn


def side_by_side(panels: Mapping[str, Image.Image], output: Path) -> None:
    """Write pictures of one size beside each other, each below its title, as a PNG."""
    width = sum(panel.width + MARGIN for panel in panels.values()) + MARGIN
    top = TITLE_PX + 2 * MARGIN
    sheet = Image.new(
        "RGB", (width, top + max(p.height for p in panels.values()) + MARGIN), "white"
    )
    pen, left = ImageDraw.Draw(sheet), MARGIN
    for title, panel in panels.items():
        pen.text((left, MARGIN - 1), title, font=_font(TITLE_PX), fill="black")
        sheet.paste(panel, (left, top))
        left += panel.width + MARGIN
    save_png(sheet, output)


def save_png(picture: Image.Image, output: Path) -> None:
    """Write a picture; it appears whole."""
    with atomic_path(output) as temporary:
        picture.save(temporary, format="PNG")


def _write_name(
    pen: ImageDraw.ImageDraw,
    text: str,
    box: np.ndarray,
    size: tuple[int, int],
    colour: tuple[int, ...],
    taken: list[Box],
) -> None:
    """Write a name on a plate of the box's colour, at the first place where no other one is."""
    font = _font(FONT_PX)
    width, height = pen.textlength(text, font=font) + 8, FONT_PX + 5
    x0, y0, x1, y1 = box
    places = [(x0, y0 - height), (x0, y0), (x0, y1 - height), (x0, y1), (x1 - width, y0 - height)]
    plates = []
    for left, top in places:
        left = min(max(left, 0), max(size[0] - width, 0))
        top = min(max(top, 0), max(size[1] - height, 0))
        plates.append((left, top, left + width, top + height))
    plate = min(plates, key=lambda one: sum(_common(one, other) for other in taken))
    taken.append(plate)
    pen.rectangle(plate, fill=colour)
    dark = np.dot(colour, (0.299, 0.587, 0.114)) < 140
    pen.text((plate[0] + 4, plate[1] + 1), text, font=font, fill="white" if dark else "black")


def _common(one: Box, other: Box) -> float:
    """Area that two boxes share."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(across, 0) * max(down, 0)


def _corners(box: np.ndarray, size: tuple[int, int]) -> Box:
    """Outermost pixels of a box, inside of the picture and in order however thin it is."""
    x0, y0, x1, y1 = box
    left, top = min(x0, size[0] - 1), min(y0, size[1] - 1)
    return left, top, max(left, min(x1 - 1, size[0] - 1)), max(top, min(y1 - 1, size[1] - 1))


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    levels = Image.fromarray(np.ascontiguousarray(mask) * np.uint8(255))
    return np.asarray(levels.resize(size, Image.Resampling.BILINEAR)) >= 128


@cache
def _font(px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), px)
