"""Images with instances in COCO's layout: boxes, classes and outlines by image."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from natural_images.detection.annotation_file import is_crowd, read_annotations, trains
from natural_images.detection.outlines import Outlines, pack
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError
from natural_images.photographs import read_photograph

log = logging.getLogger(__name__)

Split = Literal["train", "val"]

LAYOUT = "annotations/instances_{train,val}2017.json beside the folders {train,val}2017"


@dataclass(frozen=True)
class CocoImages:
    """The images of a split, and the instances to train on: single objects of a pixel or more.

    Groups of objects (``iscrowd``) are left to the evaluation, which reads `annotations` itself.

    annotations, folder
        The JSON, and where its images lie.
    files
        (n,) names of the images in the encoding of the file system.
    ids, sizes
        (n,) int64 ids of the images; (n, 2) int64 height and width in px.
    classes, category_ids
        Name and id of each class, in the order of the ids; a label is an index into them.
    first
        (n + 1,) int64: the instances of image i are ``first[i]`` to ``first[i + 1]``.
    labels, outlines
        Class (instance,) int64 and outline of each instance.
    """

    annotations: Path
    folder: Path
    files: np.ndarray
    ids: np.ndarray
    sizes: np.ndarray
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    first: np.ndarray
    labels: np.ndarray
    outlines: Outlines

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """File name of an image, relative to the folder."""
        return os.fsdecode(self.files[index])

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of an image in px."""
        height, width = self.sizes[index].tolist()
        return height, width

    def instances(self, index: int) -> range:
        """Places of an image's instances in `labels` and `outlines`."""
        return range(*self.first[index : index + 2].tolist())

    def with_instances(self) -> np.ndarray:
        """Indices of the images that have any, which are those to train on, (k,) int64."""
        return np.flatnonzero(np.diff(self.first))

    def read(self, index: int) -> Image.Image:
        """Decode an image to RGB.

        Raises NaturalImagesDataError where it does not decode or has another size than it should.
        """
        # Boxes and the size in the file are those of the pixels as they are stored.
        image = read_photograph(self.folder / self.name(index), upright=False)
        if (image.height, image.width) != self.size(index):
            height, width = self.size(index)
            raise NaturalImagesDataError(
                f"{self.folder / self.name(index)}: expected {width} × {height} px as in "
                f"{self.annotations}, got {image.width} × {image.height}. Take the image that was "
                "annotated"
            )
        return image


def open_coco(path: Path, *, split: Split = "train") -> CocoImages:
    """Open a split: ``path/annotations/instances_<name>.json`` and its images in ``path/<name>/``.

    Parameters
    ----------
    path
        The folder; `split` begins the name, as in ``instances_train2017.json``.
    split
        "train" or "val".

    Raises
    ------
    NaturalImagesValueError
        No such split.
    NaturalImagesDataError
        A file or an image is absent, or the JSON has a mistake; names it.
    """
    path = Path(path).expanduser()
    if split not in get_args(Split):
        raise NaturalImagesValueError(f"split: expected 'train' or 'val', got {split!r}")
    annotations = _annotation_file(path, split)
    folder = path / annotations.stem.removeprefix("instances_")
    if not folder.is_dir():
        raise NaturalImagesDataError(
            f"{folder}: expected the folder of the images of {annotations}, got nothing. Known "
            f"layout: {LAYOUT}"
        )
    tables = read_annotations(annotations)
    images = tables["images"]
    if not images:
        raise NaturalImagesDataError(f"{annotations}: expected images, got none. Add some")
    _check_files(annotations, folder, [str(image["file_name"]) for image in images])
    found = _by_image(images, tables["annotations"])
    category_ids = tuple(category["id"] for category in tables["categories"])
    label = {number: place for place, number in enumerate(category_ids)}
    log.info(
        "%s: %d images and %d instances of %d classes",
        *(annotations.name, len(images), sum(map(len, found)), len(category_ids)),
    )
    return CocoImages(
        annotations=annotations,
        folder=folder,
        files=np.array([os.fsencode(str(image["file_name"])) for image in images]),
        ids=np.array([image["id"] for image in images], np.int64),
        sizes=np.array([(image["height"], image["width"]) for image in images], np.int64),
        classes=tuple(str(category["name"]) for category in tables["categories"]),
        category_ids=category_ids,
        first=np.cumsum([0, *map(len, found)], dtype=np.int64),
        labels=np.array([label[row["category_id"]] for rows in found for row in rows], np.int64),
        outlines=pack(row["segmentation"] for rows in found for row in rows),
    )


def _annotation_file(path: Path, split: str) -> Path:
    found = sorted((path / "annotations").glob(f"instances_{split}*.json"))
    if len(found) == 1:
        return found[0]
    expected = path / "annotations" / f"instances_{split}2017.json"
    got = ", ".join(file.name for file in found) or "nothing of the kind"
    raise NaturalImagesDataError(
        f"{expected}: expected one such file, got {got}. Known layout: {LAYOUT}"
    )


def _check_files(annotations: Path, folder: Path, names: Sequence[str]) -> None:
    # One listing: to ask for a hundred thousand files one by one takes minutes on a network disk.
    listed = {entry.name for entry in os.scandir(folder)}
    absent = [n for n in names if n not in listed and not ("/" in n and (folder / n).is_file())]
    if absent:
        raise NaturalImagesDataError(
            f"{annotations}: expected its {len(names)} images in {folder}, got none of "
            f"{absent[:3]}{f' and {len(absent) - 3} more' if len(absent) > 3 else ''}. "
            "Complete the images"
        )


def _by_image(images: Sequence[Any], annotations: Sequence[Any]) -> list[list[Any]]:
    """Annotations to train on of every image."""
    place = {image["id"]: index for index, image in enumerate(images)}
    found: list[list[Any]] = [[] for _ in images]
    tiny = 0
    for annotation in annotations:
        if trains(annotation):
            found[place[annotation["image_id"]]].append(annotation)
        else:
            tiny += not is_crowd(annotation)
    if tiny:
        log.warning("%d boxes are narrower than a pixel and are not trained on", tiny)
    return found
