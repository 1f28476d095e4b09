import numpy as np
import pytest
from PIL import Image

from natural_images.detection.augment import AugmentSection, Placement, fill_colour, fit, jitter
from natural_images.detection.outlines import mask_api, pack
from natural_images.errors import NaturalImagesValueError

FILL = (1, 2, 3)
SQUARE = [[10, 6, 34, 6, 34, 30, 10, 30]]
RUNS = mask_api.merge(mask_api.frPyObjects(SQUARE, 40, 48))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", 0),
        ("size", 32.0),
        ("scale", (0, 1)),
        ("scale", (2, 1)),
        ("flip", 1.5),
        ("mean", (1, 2)),
        ("std", (1, 1, 0)),
    ],
)
def test_wrong_values(key, value):
    with pytest.raises(NaturalImagesValueError, match=f"augment key '{key}'"):
        AugmentSection(**{key: value})


def test_fit():
    placement = fit((40, 48), 96)
    assert (placement.resized, placement.shown, placement.scale) == ((80, 96), (80, 96), (2, 2))
    image = Image.fromarray(np.full((40, 48, 3), 200, np.uint8))
    pixels = placement.pixels(image, FILL)
    assert pixels.shape == (3, 96, 96)
    assert (pixels[:, :80] == 200).all()
    assert (pixels[:, 80:] == np.array(FILL)[:, None, None]).all()
    boxes = placement.boxes_of_image(np.array([[20, 10, 60, 40], [-4, 2, 300, 300]]))
    assert boxes.tolist() == [[10, 5, 30, 20], [0, 1, 48, 40]]


def test_jitter_reaches_both_ends_and_follows_its_generator():
    augment = AugmentSection(size=64)
    placements = [jitter((40, 48), augment, np.random.default_rng(seed)) for seed in range(400)]
    assert placements[3] == jitter((40, 48), augment, np.random.default_rng(3))
    longer = [placement.resized[1] for placement in placements]
    assert 6 <= min(longer) < 10
    assert 122 < max(longer) <= 128
    assert 150 < sum(placement.flip for placement in placements) < 250
    assert all(
        0 <= corner <= max(side - 64, 0)
        for placement in placements
        for corner, side in zip(placement.corner, placement.resized, strict=True)
    )
    assert any(placement.corner > (0, 0) for placement in placements)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("outline", [SQUARE, RUNS], ids=["polygon", "runs"])
def test_masks_follow_the_pixels(outline, seed):
    # The square is white on black; so the mask must be where the placed image is white.
    pixels = np.zeros((40, 48, 3), np.uint8)
    pixels[6:30, 10:34] = 255
    augment = AugmentSection(size=64, scale=(0.5, 2.0))
    placement = jitter((40, 48), augment, np.random.default_rng(seed))
    placed = placement.pixels(Image.fromarray(pixels), (0, 0, 0))[0]
    rows, columns = placement.shown
    mask = mask_api.decode(pack([outline]).place(0, placement)).astype(bool)
    assert mask.shape == (rows, columns)
    seen = placed[:rows, :columns]
    # grey are the edges; a mask that were a pixel off would miss white or take black
    assert mask[seen >= 190].all()
    assert not mask[seen <= 60].any()
    assert mask.sum() > 20


def test_a_flip_exchanges_left_and_right():
    placement = Placement((40, 48), (40, 48), 48, flip=True)
    moved = pack([SQUARE, RUNS])
    masks = [mask_api.decode(moved.place(instance, placement)) for instance in range(2)]
    expected = np.zeros((40, 48), np.uint8)
    expected[6:30, 14:38] = 1
    assert np.array_equal(masks[0], expected)
    assert np.array_equal(masks[1], expected)


def test_fill_colour_is_nothing_to_the_model():
    assert fill_colour(AugmentSection()) == (124, 116, 104)
