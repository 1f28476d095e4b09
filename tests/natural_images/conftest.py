"""A folder of small pictures, and runs that read them without worker processes."""

import numpy as np
import pytest
from PIL import Image

import natural_images.splits
from natural_images.classification.augment import eval_transform
from natural_images.classification.samples import ImageSamples

CLASSES = ("bars", "dots", "rings")


@pytest.fixture
def pictures(tmp_path):
    """Three classes of 8 training and 4 validation images of 16 px, told apart by brightness."""
    random = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    for part, count in (("train", 8), ("val", 4)):
        for level, name in enumerate(CLASSES):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 60, (16, 16, 3)) + 90 * level
                picture = Image.fromarray(pixels.astype(np.uint8))
                picture.save(folder / part / name / f"{number}.png")
    return folder


@pytest.fixture
def read_in_threads(monkeypatch):
    """Training without random crops needs no worker processes, which take seconds to start."""

    def samples(source, indices, transform, **options):
        return ImageSamples(source, indices, transform, **{**options, "in_processes": False})

    monkeypatch.setattr(natural_images.splits, "train_transform", eval_transform)
    monkeypatch.setattr(natural_images.splits, "ImageSamples", samples)
