"""A tiny data set in ADE20K's layout: flat areas of colour whose class the colour tells."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NAMES = ("grey", "red", "green")
COLOURS = np.array([(0, 0, 0), (120, 120, 120), (200, 40, 40), (40, 180, 60)], np.uint8)


def draw(folder: Path, split: str, count: int, *, height: int = 40, width: int = 56) -> None:
    """Grey images with a red and a green rectangle, and a black row that has no label."""
    random = np.random.default_rng(len(split))
    for kind in ("images", "annotations"):
        (folder / kind / split).mkdir(parents=True)
    for number in range(count):
        labels = np.ones((height, width), np.uint8)
        for label in (2, 3):
            top, left = random.integers(0, height - 16), random.integers(0, width - 20)
            labels[top : top + 16, left : left + 20] = label
        labels[0] = 0
        pixels = COLOURS[labels].astype(np.int64) + random.integers(-20, 20, (height, width, 3))
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        image.save(folder / "images" / split / f"{split}_{number:04d}.jpg", quality=95)
        annotation = folder / "annotations" / split / f"{split}_{number:04d}.png"
        Image.fromarray(labels).save(annotation)


def draw_all(folder: Path) -> Path:
    """Six training and three validation images of three classes, with the table of their names."""
    draw(folder, "training", 6)
    draw(folder, "validation", 3)
    rows = [f"{number}\t0.3\t6\t3\t{name}, synonym" for number, name in enumerate(NAMES, start=1)]
    (folder / "objectInfo3.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]))
    return folder


@pytest.fixture
def areas(tmp_path):
    return draw_all(tmp_path / "areas")


@pytest.fixture(scope="session")
def draw_areas():
    return draw_all
