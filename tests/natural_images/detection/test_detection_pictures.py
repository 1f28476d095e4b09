import numpy as np
import pytest
from PIL import Image

from natural_images.detection.outlines import mask_api
from natural_images.detection.pictures import (
    LONGEST,
    SHORTEST,
    draw_instances,
    side_by_side,
)
from natural_images.detection.predictions import Instances
from natural_images.segmentation.overlay import palette


def instances(width, height, boxes, scores=None):
    masks = []
    for x0, y0, x1, y1 in boxes:
        mask = np.zeros((height, width), np.uint8, order="F")
        mask[int(y0) : int(y1), int(x0) : int(x1)] = 1
        masks.append(mask_api.encode(mask))
    classes = np.arange(len(boxes)) % 2
    return Instances(np.array(boxes, float).reshape(-1, 4), classes, masks, scores)


@pytest.mark.parametrize(
    ("size", "drawn"),
    [((64, 32), (SHORTEST, 320)), ((800, 600), (800, 600)), ((4000, 10), (LONGEST, 3))],
)
def test_photographs_are_drawn_at_a_size_that_can_be_read(size, drawn):
    image = Image.new("RGB", size)
    assert draw_instances(image, instances(*size, []), ["a"]).size == drawn


def test_masks_have_the_colour_of_their_class():
    image = Image.new("RGB", (800, 600), (100, 100, 100))
    found = instances(800, 600, [(100, 100, 300, 400), (500, 100, 700, 400)], np.array([0.9, 0.8]))
    pixels = np.asarray(draw_instances(image, found, ["disc", "square"])).astype(float)
    for place, colour in (((250, 200), palette(2)[0]), ((250, 600), palette(2)[1])):
        expected = 100 + 0.5 * (colour.astype(float) - 100)
        assert np.abs(pixels[place] - expected).max() < 1
    assert (pixels[20, 20] == 100).all()


def test_boxes_at_the_edges_and_without_an_area_are_drawn():
    image = Image.new("RGB", (700, 700), "white")
    boxes = [(0, 0, 700, 700), (700, 700, 700, 700), (3, 5, 3, 90), (3, 5, 3.2, 5.1)]
    assert draw_instances(image, instances(700, 700, boxes), ["a", "b"]).size == (700, 700)


def test_names_of_objects_in_one_place_lie_beside_each_other():
    image = Image.new("RGB", (700, 700), (255, 255, 255))
    one = instances(700, 700, [(300, 300, 400, 400)])
    two = instances(700, 700, [(300, 300, 400, 400)] * 2)
    names = ["a rather long name", "another long name"]
    areas = [
        # the plate's colours, outside of the objects
        (np.asarray(draw_instances(image, shown, names))[:, 401:] != 255).any(axis=2).sum()
        + (np.asarray(draw_instances(image, shown, names))[:300] != 255).any(axis=2).sum()
        + (np.asarray(draw_instances(image, shown, names))[400:] != 255).any(axis=2).sum()
        for shown in (one, two)
    ]
    assert areas[1] > areas[0]


def test_side_by_side(tmp_path):
    panels = {name: Image.new("RGB", (640, 320), "red") for name in ("Annotated", "Found")}
    side_by_side(panels, tmp_path / "a" / "sheet.png")
    with Image.open(tmp_path / "a" / "sheet.png") as sheet:
        assert sheet.width > 1280
        assert (np.asarray(sheet)[:30] < 50).any()  # titles
