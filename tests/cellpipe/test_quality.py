import numpy as np
import pytest
from skimage.filters import gaussian

from cellpipe.quality import constant_value, measure_quality


def test_mean_and_saturation():
    image = np.full((20, 30), 10, np.uint8)
    image[:2] = 255
    quality = measure_quality(image)
    assert quality["mean"] == pytest.approx(0.1 * 255 + 0.9 * 10)
    assert quality["saturated"] == pytest.approx(0.1)
    assert measure_quality(image.astype(np.uint16))["saturated"] == 0


def test_focus_falls_with_blur_and_ignores_exposure():
    sharp = np.random.default_rng(0).integers(100, 1000, (64, 64)).astype(np.uint16)
    blurred = gaussian(sharp, 2, preserve_range=True).astype(np.uint16)
    assert measure_quality(blurred)["focus"] < measure_quality(sharp)["focus"] - 1
    assert measure_quality(sharp * 3)["focus"] == pytest.approx(measure_quality(sharp)["focus"])


def test_focus_of_a_ramp_is_finite():
    ramp = np.arange(400, dtype=np.uint16).reshape(20, 20)
    assert np.isfinite(measure_quality(ramp)["focus"])


def test_constant_value():
    image = np.full((4, 4), 7, np.uint16)
    assert constant_value(image) == 7
    image[0, 0] = 8
    assert constant_value(image) is None
