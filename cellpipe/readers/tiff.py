"""One single-channel TIFF, or the reason why it cannot be used."""

from pathlib import Path

import numpy as np
import tifffile

USABLE_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16))


class BadImageError(Exception):
    """An image that goes to quarantine; the message is the reason, a sentence."""


def read_tiff(path: Path) -> np.ndarray:
    """Read a grayscale TIFF as (y, x) uint8 or uint16; of a palette TIFF, the indices.

    Raises
    ------
    BadImageError
        If the file cannot be read, holds several pages or colours, or pixels of another type.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            pages, colours = len(tiff.pages), tifffile.PHOTOMETRIC(page.photometric).name
            image = page.asarray()
    except Exception as error:
        # A damaged file can fail in any of tifffile's and imagecodecs' ways, and no damaged file
        # may stop a plate.
        raise BadImageError(f"unreadable: {error}") from error
    if pages != 1:
        raise BadImageError(f"holds {pages} pages, expected one")
    if colours not in ("MINISBLACK", "PALETTE") or image.ndim != 2:
        raise BadImageError(f"is {colours} of shape {image.shape}, expected grayscale")
    if image.dtype not in USABLE_TYPES:
        raise BadImageError(f"has pixels of type {image.dtype}, expected uint8 or uint16")
    return image
