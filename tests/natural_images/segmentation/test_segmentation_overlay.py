import numpy as np
import pytest
from PIL import Image

from natural_images.segmentation.ade20k import IGNORED, read_labels
from natural_images.segmentation.overlay import draw_overlay, overlay, palette, save_labels

NAMES = [f"class {number}" for number in range(1, 31)]


def test_palette_tells_classes_apart_and_keeps_colours():
    assert palette(150).shape == (150, 3)
    assert len(np.unique(palette(150), axis=0)) == 150
    assert np.array_equal(palette(6), palette(150)[:6])
    few = palette(12).astype(int)
    apart = np.abs(few[:, None] - few).sum(axis=2) + 1000 * np.eye(12, dtype=int)
    assert apart.min() > 60


def test_overlay_colours_areas_edges_them_and_leaves_ignored_pixels():
    image = np.full((12, 12, 3), (90, 120, 30), np.uint8)
    labels = np.zeros((12, 12), np.uint8)
    labels[:, 4:8] = 1
    labels[:, 8:] = IGNORED
    mixed = overlay(image, labels, 2)
    assert mixed[5, 10].tolist() == [90, 120, 30]
    assert (mixed[5, 3:5] == 255).all()  # on both sides of the edge
    colours = palette(2).astype(int)
    for label, column in ((0, 1), (1, 6)):
        nearest = np.abs(colours - mixed[5, column]).sum(axis=1).argmin()
        assert nearest == label


@pytest.mark.parametrize("size", [(30, 400), (400, 30), (64, 64), (1500, 2000)])
def test_pictures_of_any_shape(tmp_path, size):
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (*size, 3)).astype(np.uint8)
    labels = np.repeat(np.arange(size[1]) * 30 // size[1], size[0]).reshape(size[::-1]).T
    found = {"Labelled": labels, "Found": labels.astype(np.uint8)}
    draw_overlay(image, found, NAMES, tmp_path / "drawn.png", title="All classes")
    width, height = Image.open(tmp_path / "drawn.png").size
    assert 1500 < width < 2500
    assert 200 < height < 1100


@pytest.mark.parametrize("name", ["5$ or 6_^$.jpg", "\udce9.jpg"])
def test_names_are_drawn_as_they_are(tmp_path, name):
    labels = np.zeros((20, 30), np.uint8)
    image = np.zeros((20, 30, 3), np.uint8)
    draw_overlay(image, {"Found": labels}, ["$x^$"], tmp_path / "drawn.png", title=name)
    assert (tmp_path / "drawn.png").stat().st_size > 1000


def test_saved_labels_are_read_as_an_annotation_with_the_overlays_colours(tmp_path):
    labels = np.array([[0, 1], [5, IGNORED]], np.uint8)
    save_labels(labels, 6, tmp_path / "labels.png")
    assert np.array_equal(read_labels(tmp_path / "labels.png", 6), labels)
    shown = np.asarray(Image.open(tmp_path / "labels.png").convert("RGB"))
    assert np.array_equal(shown[1, 0], palette(6)[5])
    assert shown[1, 1].tolist() == [0, 0, 0]
