"""Drawn shapes in the formats of ADE20K and COCO, to try segmentation and detection on."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from fastvim.files import atomic_path
from natural_images.errors import NaturalImagesValueError
from natural_images.shape_scenes import SHAPES, Scene, draw_scene, photographs

SMALLEST_SIDE = 64
"""Of an image, in px: five shapes of 16 px find room."""
JPEG_QUALITY = 95
CLASSES = ("background", *SHAPES)
"""Of ADE20K's format, from label 1 on. No pixel has label 0, which would be ignored."""
PARTS = ("train", "val")


def write_shapes(
    output: Path, *, train: int = 1000, val: int = 200, size: int = 128, seed: int = 0
) -> None:
    """Write discs, squares, triangles, stars and crosses on real photographs, with their masks.

    An image has one to five shapes of plain or textured colour, from a fifth to half its side
    wide, anywhere and at any angle; at least three fifths of each are seen. A class has a hue of
    its own, give or take, as grass and sky have. Masks are of what is
    seen, to the pixel. Validation images show parts of the photographs that no training image
    shows. The n-th image of a part is the same whatever their number.

    Parameters
    ----------
    output
        The folder to make; must not be there, or be empty. It appears whole or not at all:

        ``ade20k/``
            ``images/{training,validation}/ADE_*.jpg``, ``annotations/{training,validation}/*.png``
            (label 1 is the background, then the shapes in the order of `SHAPES`), and
            ``objectInfo150.txt``, tab-separated like ADE20K's, with the names.
        ``coco/``
            The same images in ``train2017/`` and ``val2017/``, and
            ``annotations/instances_{train,val}2017.json`` with masks in COCO's run lengths, not
            compressed, since what is seen of a shape may be no polygon.
    train, val
        Numbers of images.
    size
        Side of the images in px, at least 64.
    seed
        Draws other images.

    Raises
    ------
    NaturalImagesValueError
        If a number is too small or `output` already holds something.
    """
    for name, value, least in (
        ("train", train, 1),
        ("val", val, 1),
        ("size", size, SMALLEST_SIDE),
        ("seed", seed, 0),
    ):
        if value < least:
            raise NaturalImagesValueError(
                f"shapes: expected {name} to be at least {least}, got {value}"
            )
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise NaturalImagesValueError(
            f"shapes: {output} is already there and will not be replaced. "
            "Name another folder or delete it"
        )
    with atomic_path(output) as temporary:
        writer = _Writer(temporary, size)
        for number, (part, count) in enumerate(zip(PARTS, (train, val), strict=True)):
            backgrounds = photographs(part)
            for index in track(range(count), description=f"Drawing {part} images"):
                random = np.random.default_rng([seed, number, index])
                writer.add(part, index, draw_scene(backgrounds, size, random))
        writer.finish()


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's run lengths of a mask (height, width): down the columns, zeros first."""
    flat = mask.ravel(order="F").astype(np.int8)
    changes = np.flatnonzero(np.diff(flat, prepend=np.int8(0)))
    return np.diff(changes, prepend=0, append=len(flat)).tolist()


class _Writer:
    """Both formats, filled image by image."""

    def __init__(self, root: Path, size: int) -> None:
        self._ade, self._coco, self._size = root / "ade20k", root / "coco", size
        self._instances = {part: _instances() for part in PARTS}
        self._pixels = np.zeros(len(CLASSES), np.int64)
        self._images_with = {part: np.zeros(len(CLASSES), np.int64) for part in PARTS}
        for part in PARTS:
            for folder in (*self._ade_folders(part), self._coco / f"{part}2017"):
                folder.mkdir(parents=True)

    def add(self, part: str, index: int, scene: Scene) -> None:
        """Write an image, the `index`-th of its part, and note what is in it."""
        identifier = len(self._instances["train"]["images"]) + 1
        if part == "val":
            identifier += index
        images, annotations = self._ade_folders(part)
        name = f"ADE_{part}_{index + 1:08d}"
        picture = images / f"{name}.jpg"
        Image.fromarray(scene.image).save(picture, quality=JPEG_QUALITY)
        labels = np.ones((self._size, self._size), np.uint8)
        for kind, mask in zip(scene.classes, scene.masks, strict=True):
            labels[mask] = kind + 2
        Image.fromarray(labels).save(annotations / f"{name}.png")
        self._pixels += np.bincount(labels.ravel() - 1, minlength=len(CLASSES))
        self._images_with[part][np.unique(labels) - 1] += 1

        file = f"{identifier:012d}.jpg"
        shutil.copyfile(picture, self._coco / f"{part}2017" / file)
        written = self._instances[part]
        written["images"].append(
            {"id": identifier, "file_name": file, "height": self._size, "width": self._size}
        )
        for kind, mask in zip(scene.classes, scene.masks, strict=True):
            # unique over both parts, as COCO's are
            number = sum(len(i["annotations"]) for i in self._instances.values()) + 1
            written["annotations"].append(_annotation(number, identifier, kind, mask))

    def finish(self) -> None:
        """Write what is known when all images are."""
        folder = self._coco / "annotations"
        folder.mkdir()
        for part, written in self._instances.items():
            (folder / f"instances_{part}2017.json").write_text(json.dumps(written))
        share = self._pixels / self._pixels.sum()
        rows: list[Iterable[Any]] = [("Idx", "Ratio", "Train", "Val", "Name")]
        for label, name in enumerate(CLASSES):
            counts = (self._images_with[part][label] for part in PARTS)
            rows.append((label + 1, f"{share[label]:.4f}", *counts, name))
        text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
        (self._ade / "objectInfo150.txt").write_text(text)

    def _ade_folders(self, part: str) -> tuple[Path, Path]:
        folder = {"train": "training", "val": "validation"}[part]
        return self._ade / "images" / folder, self._ade / "annotations" / folder


def _instances() -> dict[str, Any]:
    categories = [
        {"supercategory": "shape", "id": number, "name": name}
        for number, name in enumerate(SHAPES, start=1)
    ]
    info = {"description": "Drawn shapes on photographs of scikit-learn and scikit-image"}
    return {"info": info, "images": [], "annotations": [], "categories": categories}


def _annotation(number: int, image: int, kind: int, mask: np.ndarray) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    return {
        "id": number,
        "image_id": image,
        "category_id": kind + 1,
        "iscrowd": 0,
        "area": int(mask.sum()),
        "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
        "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
    }
