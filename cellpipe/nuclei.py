"""Nuclei in a DNA image by thresholding and a watershed: no weights, no GPU."""

import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_li
from skimage.segmentation import relabel_sequential, watershed

MINIMUM_AREA = 0.15
"""Smallest object kept, as a fraction of the area of a disc of the typical diameter."""

MAXIMUM_AREA = 8.0
"""Largest object kept, in the same unit: beyond it are fluorescent fibres and blurred clumps."""

MINIMUM_CONTRAST = 6.0
"""Threshold's least height over the background, in robust standard deviations of the background.

Every histogram can be cut in two; in a field without cells this keeps the noise unlabelled.
"""

RIM = 0.5
"""A nucleus ends where its intensity falls to this fraction of its own median."""


def segment_nuclei(image: np.ndarray, *, diameter_px: float) -> np.ndarray:
    """Label the nuclei of one DNA image.

    The image is smoothed, freed of its local background and thresholded (minimum cross-entropy,
    Li and Tam 1998); touching nuclei are parted by a watershed on the distance to the rim; each
    is then trimmed to half its own height, so that the glow around bright nuclei stays outside.

    Parameters
    ----------
    image
        (y, x), any real type, counts.
    diameter_px
        Typical diameter of a nucleus in pixels; every length in the method scales with it.

    Returns
    -------
    np.ndarray
        (y, x) int32 label image; 0 is background, the nuclei are 1, 2, … without gaps.
    """
    smooth = ndimage.gaussian_filter(image.astype(np.float32), diameter_px / 20)
    flat = smooth - _background(smooth, diameter_px)
    foreground = flat > _threshold(flat)
    foreground = ndimage.binary_opening(foreground, iterations=max(1, round(diameter_px / 16)))
    labels = _split_touching(ndimage.binary_fill_holes(foreground), diameter_px)
    labels = _trim_to_half_height(labels, flat)
    return _drop_by_area(labels, diameter_px)


def _background(smooth: np.ndarray, diameter_px: float) -> np.ndarray:
    """Low percentile of blocks three nuclei wide, interpolated; so wide that nuclei don't count."""
    height, width = smooth.shape
    rows, columns = (max(1, round(side / (3 * diameter_px))) for side in smooth.shape)
    coarse = np.array(
        [
            [np.percentile(block, 10) for block in np.array_split(band, columns, axis=1)]
            for band in np.array_split(smooth, rows, axis=0)
        ]
    )
    zoom = (height / rows, width / columns)
    return ndimage.zoom(coarse, zoom, order=1, grid_mode=True, mode="nearest")


def _threshold(flat: np.ndarray) -> float:
    centre = np.median(flat)
    # The half below the median is background whatever share of the field the nuclei cover.
    noise = 1.4826 * np.median(centre - flat[flat <= centre])
    return max(float(threshold_li(flat)), float(centre + MINIMUM_CONTRAST * noise))


def _split_touching(foreground: np.ndarray, diameter_px: float) -> np.ndarray:
    relief = ndimage.gaussian_filter(
        ndimage.distance_transform_edt(foreground), diameter_px / 10, mode="nearest"
    )
    seeds = peak_local_max(
        relief,
        min_distance=max(1, round(0.4 * diameter_px)),
        labels=ndimage.label(foreground)[0],
        exclude_border=False,
    )
    markers = np.zeros(foreground.shape, np.int32)
    markers[tuple(seeds.T)] = np.arange(1, len(seeds) + 1)
    return watershed(-relief, markers, mask=foreground)


def _trim_to_half_height(labels: np.ndarray, flat: np.ndarray) -> np.ndarray:
    count = int(labels.max())
    height = np.zeros(count + 1, np.float32)
    height[1:] = ndimage.median(flat, labels, np.arange(1, count + 1)) if count else 0
    kept = ndimage.binary_fill_holes((labels > 0) & (flat > RIM * height[labels]))
    return np.where(kept, labels, 0)


def _drop_by_area(labels: np.ndarray, diameter_px: float) -> np.ndarray:
    disc = np.pi * diameter_px**2 / 4
    area = np.bincount(labels.ravel())
    keep = (area >= MINIMUM_AREA * disc) & (area <= MAXIMUM_AREA * disc)
    keep[0] = False
    return relabel_sequential(np.where(keep[labels], labels, 0))[0].astype(np.int32)
