"""Statistics gathered batch by batch equal those of all pixels at once."""

import numpy as np

from cellpipe.pixel_statistics import PixelSums


def test_sums_over_batches_equal_numpy():
    images = np.random.default_rng(0).integers(0, 65536, (10, 3, 7, 5)).astype(np.uint16)
    sums = PixelSums(3)
    for batch in np.array_split(images, 4):
        sums.add(batch)
    statistics = sums.statistics()
    np.testing.assert_allclose(statistics.mean, images.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(statistics.std, images.std(axis=(0, 2, 3)))
    scaled = statistics.scale(images)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(axis=(0, 2, 3)), 1, rtol=1e-5)


def test_constant_and_absent_pixels_scale_to_zero_and_not_to_nan():
    sums = PixelSums(2)
    assert sums.statistics().std.tolist() == [1, 1]
    sums.add(np.full((2, 2, 4, 4), 500, np.uint16))
    assert (sums.statistics().scale(np.full((1, 2, 4, 4), 500, np.uint16)) == 0).all()


def test_take_reorders_channels():
    sums = PixelSums(2)
    sums.add(np.stack([np.full((4, 4), 10.0), np.full((4, 4), 20.0)])[None])
    assert sums.statistics().take(np.array([1, 0])).mean.tolist() == [20, 10]
