"""Labelled images, whatever layout they lie in: what a source is, and how an image is decoded."""

import io
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
from PIL import Image

from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError

Split = Literal["train", "val"]

LAYOUTS = (
    "<split>/<class>/*.JPEG or <class>/*.JPEG; ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar "
    "and ILSVRC2012_devkit_t12.tar.gz; WebDataset shards *.tar of key.jpg and key.cls; or Parquet "
    "with columns image and label"
)


class BadImage(Exception):  # noqa: N818 - it is met and counted, not an error of the run
    """An image that cannot be decoded; `reason` says why, in a few words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ImageSource(Protocol):
    """Labelled images that are decoded one at a time, in any order and in any process.

    A source is pickled into worker processes; it opens its files when they are read.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, sorted; a label is an index into them."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """Class index of every image, (n,) int64."""
        ...

    @property
    def places(self) -> tuple[Path, ...]:
        """Folders or files that the images lie in."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Path-like name of an image, for tables."""
        ...

    def read(self, index: int) -> Image.Image:
        """Decode an image to RGB; raises BadImage where that cannot be done."""
        ...


def decode(data: bytes) -> Image.Image:
    """Decode the bytes of an image file to RGB, as the published code does: ``convert("RGB")``.

    So CMYK is converted without a colour profile, alpha is dropped and not blended, and the EXIF
    orientation is not applied: training and evaluation of every published model saw images so.
    Grey images of 16 and 32 bits are the exception: ``convert`` alone would clip nearly all of
    them to white (ImageNet has none), so they keep their upper eight of sixteen bits here, as
    16-bit colour images do.

    Raises
    ------
    BadImage
        The data are empty, of no image format, truncated or damaged.
    """
    if not data:
        raise BadImage("empty file")
    if not data.strip(b"\0"):
        raise BadImage("only zeros")
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _to_rgb(image)
    # What a damaged file raises depends on its format and on where the damage is.
    except Exception as error:
        known = isinstance(error, Image.UnidentifiedImageError)
        # Pillow's own sentence there names an object in memory.
        raise BadImage("not an image file" if known else str(error) or repr(error)) from error


def open_images(path: Path, *, split: Split = "train", classes: int | None = None) -> ImageSource:
    """Open the images of a split; the layout is recognised by what lies at `path`.

    Parameters
    ----------
    path
        A folder in one of these layouts, the first that fits:

        - the files of ILSVRC 2012 as they are downloaded, read without unpacking them;
        - one folder a class (``torchvision.datasets.ImageFolder``), below ``train`` and ``val`` or
          directly; also ILSVRC's flat folder of validation images beside its devkit;
        - WebDataset shards, ``*.tar``, of ``key.jpg`` and ``key.cls``;
        - Parquet as on the Hugging Face hub: columns ``image`` (bytes, path) and ``label``.
    split
        "train" or "val". A folder that has no splits, ImageNet-A for example, is the same for both.
    classes
        Number of classes that are expected.

    Raises
    ------
    NaturalImagesDataError
        Nothing of the kind lies there, a file is damaged, or the number of classes differs.
    """
    from natural_images.classification import folder, ilsvrc, parquet, shards

    path = Path(path).expanduser()
    if split not in get_args(Split):
        raise NaturalImagesValueError(f"split: expected 'train' or 'val', got {split!r}")
    if not path.is_dir():
        raise NaturalImagesDataError(
            f"{path}: expected a folder of images, got "
            f"{'a file' if path.exists() else 'nothing'}. Known layouts: {LAYOUTS}"
        )
    for layout in (ilsvrc, folder, shards, parquet):
        source: ImageSource | None = layout.find(path, split, classes)
        if source is not None:
            _check(source, path, split, classes)
            return source
    found = sorted(entry.name for entry in path.iterdir())
    raise NaturalImagesDataError(
        f"{path}: expected images for {split!r}, got {found[:5] or 'an empty folder'}"
        f"{' and more' if len(found) > 5 else ''}. Known layouts: {LAYOUTS}"
    )


def _check(source: ImageSource, path: Path, split: str, classes: int | None) -> None:
    if not len(source):
        raise NaturalImagesDataError(f"{path}: expected images for {split!r}, got none")
    if classes is None:
        return
    got = len(source.classes)
    if split == "train":
        # Shards and Parquet name classes that may have no image.
        got = min(got, len(np.unique(source.labels)))
    if got != classes:
        raise NaturalImagesDataError(
            f"{path}: expected {classes} classes in {split!r}, got {got} "
            f"({', '.join(source.classes[:3])}, …). Complete the data or set data.classes"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P":
        # It is dropped anyway, and Pillow would warn of it.
        image.info.pop("transparency", None)
    return image.convert("RGB")
