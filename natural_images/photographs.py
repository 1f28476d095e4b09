"""Photographs that a user names: files and folders, and how one is read."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from natural_images.classification.folder import SUFFIXES
from natural_images.classification.images import BadImage, decode
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError


def find_photographs(images: Sequence[Path], output: Path) -> dict[str, Path]:
    """Image files by the names of their results in `output`; a folder's by their paths below it.

    What lies in `output` below a folder are results of an earlier call, and no photographs.

    Raises
    ------
    NaturalImagesDataError
        Nothing lies at a path, or there are no images at all.
    NaturalImagesValueError
        Two images would have results of one name, or results would lie among the images, where they
        could replace one.
    """
    found: dict[str, Path] = {}
    for given in map(Path, images):
        if not given.exists():
            raise NaturalImagesDataError(
                f"{given}: expected an image or a folder of images, got nothing there"
            )
        for file in _inside(given, output) if given.is_dir() else [given]:
            name = file.relative_to(given if given.is_dir() else given.parent)
            if (output / name).resolve().parent == file.resolve().parent:
                raise NaturalImagesValueError(
                    f"--output: expected another folder than that of {file}, got {output}. Name a "
                    "folder for the results, which could replace an image"
                )
            other = found.setdefault(str(name.with_suffix("")), file)
            if other != file:
                raise NaturalImagesValueError(
                    f"images: expected different names, got {other} and {file}. Give them in two "
                    "calls with different outputs"
                )
    if not found:
        raise NaturalImagesDataError(
            f"expected images ({', '.join(SUFFIXES)}), got none in {[str(p) for p in images]}"
        )
    return found


def read_photograph(file: Path, *, upright: bool = True) -> Image.Image:
    """Decode an image file to RGB; raises NaturalImagesDataError where that cannot be done.

    upright
        Turn it as its EXIF orientation says, as viewers show it to whoever annotates it.
    """
    try:
        image = decode(Path(file).read_bytes())
    except (OSError, BadImage) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise NaturalImagesDataError(
            f"{file}: expected an image, got: {reason}. Copy it again or remove it"
        ) from error
    if not upright:
        return image
    try:
        return ImageOps.exif_transpose(image)
    # What damaged EXIF data raise depends on where the damage is; the image itself is sound.
    except Exception:
        return image


def is_image(file: Path) -> bool:
    """Whether a file in a folder is an image, by its name; macOS leaves ._name beside copies."""
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".")


def _inside(folder: Path, output: Path) -> list[Path]:
    files = sorted(filter(is_image, folder.rglob("*")))
    written = output.resolve()
    if folder.resolve() not in written.parents:
        return files
    return [file for file in files if not file.resolve().is_relative_to(written)]
