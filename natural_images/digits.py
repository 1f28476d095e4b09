"""The handwritten digits that come with scikit-learn, as a folder of images to try things on.

1,797 real images of the digits 0 to 9 (Alpaydin and Kaynak, 1998, Optical Recognition of
Handwritten Digits, the UCI repository's test part): 8 × 8 px, 17 grey levels, white on black.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from fastvim.files import atomic_path
from natural_images.errors import NaturalImagesValueError

HELD_OUT = 0.2
"""Part of each class that validates."""

SMALLEST_PX = 8
"""Side of the digits as they were published."""


def write_digits(output: Path, size: int = 32) -> None:
    """Write the digits as an image folder: ``train/<digit>/*.png`` and ``val/<digit>/*.png``.

    A fifth of each class validates, drawn with seed 0: 1,437 images train and 360 validate. A
    file's number is the image's place in scikit-learn's table. The folder appears whole or not at
    all, and the same call writes the same pixels.

    Parameters
    ----------
    output
        The folder to make; must not be there, or be empty.
    size
        Side of the images in px, at least 8. Grey levels are enlarged by bicubic interpolation and
        stored as RGB.

    Raises
    ------
    NaturalImagesValueError
        If `size` is too small or `output` already holds something.
    """
    # scikit-learn takes a second to import
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if size < SMALLEST_PX:
        raise NaturalImagesValueError(
            f"digits: expected a size of at least {SMALLEST_PX} px, got {size}"
        )
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise NaturalImagesValueError(
            f"digits: {output} is already there and will not be replaced. "
            "Name another folder or delete it"
        )
    digits = load_digits()
    train, held_out = train_test_split(
        np.arange(len(digits.target)),
        test_size=HELD_OUT,
        stratify=digits.target,
        random_state=0,
    )
    with atomic_path(output) as temporary:
        for part, indices in (("train", train), ("val", held_out)):
            for index in indices:
                folder = temporary / part / str(digits.target[index])
                folder.mkdir(parents=True, exist_ok=True)
                picture = _enlarge(digits.images[index], size)
                picture.save(folder / f"{index:04d}.png")


def _enlarge(levels: np.ndarray, size: int) -> Image.Image:
    """An RGB image of some side from (8, 8) grey levels 0 to 16."""
    grey = np.round(levels * (255 / 16)).astype(np.uint8)
    return Image.fromarray(grey).resize((size, size), Image.Resampling.BICUBIC).convert("RGB")
