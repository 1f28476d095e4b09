import colorsys

import numpy as np
import pytest

from natural_images.errors import NaturalImagesValueError
from natural_images.segmentation.ade20k import IGNORED
from natural_images.segmentation.augment import (
    AugmentSection,
    augment,
    fitted,
    photometric,
    resize,
    resize_labels,
)

PLAIN = AugmentSection(
    crop=24, scale=(96, 32), ratio=(1.0, 1.0), category_cap=1, flip=0, photometric=False
)


def changed(**values):
    return AugmentSection(**{**vars(PLAIN), **values})


def numbered(height, width):
    """An image whose red and green are row and column, and labels that are their parity."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, rows * 0], axis=-1).astype(np.uint8)
    return image, ((rows + columns) % 2).astype(np.uint8)


def test_fitted_keeps_proportions_within_both_sides():
    assert fitted((512, 683), (2048, 512), 1.0) == (512, 683)
    assert fitted((300, 400), (2048, 512), 2.0) == (1024, 1365)
    # A panorama meets the longer side first, either way up.
    assert fitted((100, 1000), (2048, 512), 1.0) == (205, 2048)
    assert fitted((1000, 100), (2048, 512), 1.0) == (2048, 205)


def test_same_seed_same_crop():
    image, labels = numbered(40, 60)
    section = changed(ratio=(0.5, 2.0), flip=0.5, photometric=True, category_cap=0.75)
    first, again, other = (augment(image, labels, section, [seed, 0]) for seed in (3, 3, 4))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_labels_stay_with_their_pixels():
    image, labels = numbered(32, 48)
    for seed in range(8):
        crop, crop_labels = augment(image, labels, changed(flip=0.5), seed)
        assert crop.shape == (24, 24, 3)
        assert np.array_equal(crop_labels, (crop[..., 0].astype(int) + crop[..., 1]) % 2)


def test_flip_mirrors_both():
    image, labels = numbered(32, 48)
    plain, mirrored = (augment(image, labels, changed(flip=flip), 5) for flip in (0, 1))
    for one, other in zip(plain, mirrored, strict=True):
        assert np.array_equal(one[:, ::-1], other)


def test_crops_lie_everywhere():
    image, labels = numbered(32, 48)
    crops = [augment(image, labels, PLAIN, seed)[0][0, 0] for seed in range(200)]
    assert {int(top) for top, _, _ in crops} == set(range(9))
    assert {int(left) for _, left, _ in crops} == set(range(25))


def test_a_small_image_is_padded_with_the_mean_and_ignored():
    image, labels = np.full((10, 16, 3), 7, np.uint8), np.ones((10, 16), np.uint8)
    crop, crop_labels = augment(image, labels, changed(scale=(16, 10)), 0)
    assert (crop[:10, :16] == 7).all()
    assert crop[10:].reshape(-1, 3).tolist() == [[124, 116, 104]] * (14 * 24)
    assert (crop_labels[:10, :16] == 1).all()
    assert (crop_labels[10:] == IGNORED).all()
    assert (crop_labels[:, 16:] == IGNORED).all()


def test_category_cap_avoids_crops_of_one_class():
    """A tenth of the image is of a second class; most crops would miss it."""
    image = np.zeros((96, 96, 3), np.uint8)
    labels = np.zeros((96, 96), np.uint8)
    labels[:, 40:50] = 1
    shares = {}
    for cap in (0.75, 1):
        section = changed(scale=(96, 96), category_cap=cap)
        crops = [augment(image, labels, section, seed)[1] for seed in range(60)]
        shares[cap] = np.mean([np.bincount(crop.ravel()).max() / crop.size for crop in crops])
    assert shares[0.75] < 0.75 < 0.8 < shares[1]


def test_unlabelled_pixels_do_not_count_for_the_cap():
    """Half unlabelled, and of the rest one class has 60 %: the first crop will do."""
    random = np.random.default_rng(0)
    labels = random.choice([0, 1, IGNORED], (64, 64), p=[0.3, 0.2, 0.5]).astype(np.uint8)
    image = random.integers(0, 255, (64, 64, 3)).astype(np.uint8)
    section = changed(scale=(64, 64))
    for seed in range(10):
        capped = augment(image, labels, changed(scale=(64, 64), category_cap=0.75), seed)
        assert np.array_equal(capped[0], augment(image, labels, section, seed)[0])


def test_resize_is_bilinear_and_labels_are_not_mixed():
    image = np.repeat(np.array([[0, 100], [200, 40]], np.uint8)[..., None], 3, axis=2)
    assert resize(image, (1, 1))[0, 0].tolist() == [85, 85, 85]
    labels = np.array([[0, IGNORED], [3, 1]], np.uint8)
    assert set(np.unique(resize_labels(labels, (9, 7)))) == {0, 1, 3, IGNORED}


def test_photometric_changes_hue_and_brightness_within_bounds():
    """Of an orange that no change of brightness or contrast can clip."""
    image = np.full((2, 2, 3), (140, 100, 80), np.uint8)
    hue, _, _ = colorsys.rgb_to_hsv(140, 100, 80)
    turns, brightness = [], []
    for seed in range(300):
        out = photometric(image, np.random.default_rng(seed))[0, 0].astype(float)
        found, _, value = colorsys.rgb_to_hsv(*out)
        turns.append(((found - hue + 0.5) % 1 - 0.5) * 360)
        brightness.append(value)
    assert max(np.abs(turns)) < 36 + 4  # eight bits at these colours are some degrees
    assert np.mean(np.abs(turns) < 3) == pytest.approx(0.5, abs=0.12)
    assert max(turns) > 25
    assert min(turns) < -25
    assert min(brightness) < 80
    assert max(brightness) > 190


def test_photometric_changes_saturation_within_bounds():
    image = np.full((2, 2, 3), (140, 100, 80), np.uint8)
    hue, saturation, value = colorsys.rgb_to_hsv(140, 100, 80)
    factors = []
    for seed in range(1000):
        out = photometric(image, np.random.default_rng(seed))[0, 0].astype(float)
        found_hue, found, found_value = colorsys.rgb_to_hsv(*out)
        # Neither brightness nor contrast nor hue was drawn, or, rarely, two of them cancel.
        if found_value == value and abs(found_hue - hue) < 0.01:
            factors.append(found / saturation)
    low, high = np.percentile(factors, [3, 97])
    assert 0.48 < low < 0.6
    assert 1.35 < high < 1.52


def test_photometric_leaves_one_in_sixteen_alone():
    image = np.full((2, 2, 3), (140, 100, 80), np.uint8)
    same = [
        np.array_equal(photometric(image, np.random.default_rng(seed)), image)
        for seed in range(600)
    ]
    assert np.mean(same) == pytest.approx(1 / 16, abs=0.03)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop": 0}, "crop: expected a whole number"),
        ({"scale": [512]}, "scale: expected 2 numbers"),
        ({"ratio": [2.0, 0.5]}, "ratio: expected 0 < smallest"),
        ({"category_cap": 0}, "category_cap: expected a share"),
        ({"flip": 1.5}, "flip: expected a probability"),
        ({"photometric": 1}, "photometric: expected true or false"),
        ({"std": [1, 0, 1]}, "std: expected 3 numbers above 0"),
    ],
)
def test_wrong_values_are_refused(values, message):
    with pytest.raises(NaturalImagesValueError, match=message):
        AugmentSection(**values)
