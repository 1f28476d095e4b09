"""The JSON of COCO's instances, checked: a mistake is found before training, with its file and id.

Lin et al. 2014; the format is described at https://cocodataset.org/#format-data.
"""

import json
import logging
import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from natural_images.detection.outlines import LEAST_NUMBERS, compressed, mask_api
from natural_images.errors import NaturalImagesDataError

log = logging.getLogger(__name__)

OUTSIDE_PX = 2.0
"""So far a box may reach out of its image: some tools count pixels from 1 and include the last."""
SMALLEST_PX = 1.0
"""COCO has a few boxes without a width or a height; smaller ones than this are not trained on."""

NEEDED = {
    "images": ("id", "file_name", "height", "width"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area", "segmentation"),
}

Record = Mapping[str, Any]


def read_annotations(path: Path) -> dict[str, list[Record]]:
    """Images, categories (by id) and annotations of a file, all checked.

    Raises
    ------
    NaturalImagesDataError
        The file is not there or no such JSON; an id is there twice; an annotation is of an image or
        a category that is not there, has no area or outline, or a box outside of its image.
    """
    path = Path(path)
    log.info("reading %s", path)
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise NaturalImagesDataError(
            f"{path}: expected COCO's instances as JSON, got {error}. Download it again"
        ) from error
    tables = {}
    for table, keys in NEEDED.items():
        rows = content.get(table) if isinstance(content, Mapping) else None
        if not isinstance(rows, list):
            raise NaturalImagesDataError(
                f"{path}: expected lists {', '.join(NEEDED)}, got no list {table!r}. "
                "Give a file of instances"
            )
        tables[table] = _checked_rows(path, table, rows, keys)
    if not tables["categories"]:
        raise NaturalImagesDataError(f"{path}: expected categories, got none. Add their names")
    tables["categories"].sort(key=lambda category: category["id"])
    _check_annotations(path, tables)
    return tables


def is_crowd(annotation: Record) -> bool:
    """Whether an annotation is of a group, which is no example of its class."""
    return bool(annotation.get("iscrowd", 0))


def trains(annotation: Record) -> bool:
    """Whether an annotation is one to learn from: of a single object, and of a pixel at least."""
    return not is_crowd(annotation) and min(annotation["bbox"][2:]) >= SMALLEST_PX


def _checked_rows(
    path: Path, table: str, rows: Sequence[Record], keys: Iterable[str]
) -> list[Record]:
    seen: set[int] = set()
    for place, row in enumerate(rows):
        absent = [key for key in keys if not isinstance(row, Mapping) or key not in row]
        if absent:
            known = f" (id {row['id']})" if "id" in keys and "id" not in absent else ""
            raise NaturalImagesDataError(
                f"{path}: {table}[{place}]{known}: expected the keys {list(keys)}, got none of "
                f"{absent}. Complete it"
            )
        number = row["id"]
        if not _is_whole(number):
            _wrong(path, table, number, "a whole number as id", repr(number), "Number them")
        if number in seen:
            _wrong(path, table, number, "its id once", "it again", "Remove or renumber one of them")
        seen.add(number)
    return list(rows)


def _check_annotations(path: Path, tables: Mapping[str, Sequence[Record]]) -> None:
    sizes: dict[int, tuple[int, int]] = {}
    for image in tables["images"]:
        height, width = image["height"], image["width"]
        if not all(_is_whole(side) and side > 0 for side in (height, width)):
            got = f"{height!r} and {width!r}"
            _wrong(path, "images", image["id"], "a height and a width in px", got, "Correct them")
        sizes[image["id"]] = height, width
    categories = {category["id"] for category in tables["categories"]}
    for annotation in tables["annotations"]:
        size = sizes.get(annotation["image_id"])
        if size is None:
            got = annotation["image_id"]
            _wrong(path, "annotations", annotation["id"], "an image of the file", got, REMOVE)
        if annotation["category_id"] not in categories:
            got = annotation["category_id"]
            _wrong(path, "annotations", annotation["id"], "a category of the file", got, REMOVE)
        _check_box(path, annotation, size)
        if not (_is_number(annotation["area"]) and annotation["area"] >= 0):
            got = repr(annotation["area"])
            _wrong(path, "annotations", annotation["id"], "the area of its mask in px", got, REMOVE)
        _check_outline(path, annotation, size)


REMOVE = "Correct or remove it"


def _check_box(path: Path, annotation: Record, size: tuple[int, int]) -> None:
    box = annotation["bbox"]
    number = annotation["id"]
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        _wrong(path, "annotations", number, "bbox as [x, y, width, height]", box, REMOVE)
    x, y, width, height = box
    least, far_x, far_y = -OUTSIDE_PX, size[1] + OUTSIDE_PX, size[0] + OUTSIDE_PX
    inside = least <= x and least <= y and x + width <= far_x and y + height <= far_y
    if not inside or min(width, height) < 0:
        expected = f"a box inside of its image ({size[1]} × {size[0]} px)"
        _wrong(path, "annotations", number, expected, f"x, y, width, height {box}", REMOVE)


def _check_outline(path: Path, annotation: Record, size: tuple[int, int]) -> None:
    outline, number = annotation["segmentation"], annotation["id"]
    if isinstance(outline, Mapping):
        try:
            runs = compressed(outline)
            found = runs["size"]
            mask_api.area(runs)  # reads compressed ones
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            _wrong(path, "annotations", number, "run lengths of its mask", error, REMOVE)
        if list(found) != list(size):
            expected = f"run lengths of its image's size {list(size)} (height, width)"
            _wrong(path, "annotations", number, expected, list(found), REMOVE)
        return
    polygons = outline if isinstance(outline, list) else []
    lengths = []
    for polygon in polygons:
        if not (isinstance(polygon, list) and _are_numbers(polygon)):
            got = f"{polygon!r:.60}"
            _wrong(path, "annotations", number, "a list of polygons x, y, x, y, …", got, REMOVE)
        lengths.append(len(polygon))
    if any(length % 2 for length in lengths):
        _wrong(path, "annotations", number, "polygons x, y, x, y, …", "an odd number", REMOVE)
    # Those that are not trained on anyway may have none, as a few of COCO's.
    if max(lengths, default=0) < LEAST_NUMBERS and trains(annotation):
        expected = "a polygon of at least three points or run lengths"
        _wrong(path, "annotations", number, expected, f"{outline!r:.60}", REMOVE)


def _wrong(path: Path, table: str, number: Any, expected: str, got: Any, remedy: str) -> NoReturn:
    kind = {"images": "image", "categories": "category", "annotations": "annotation"}[table]
    raise NaturalImagesDataError(
        f"{path}: {kind} {number}: expected {expected}, got {got}. {remedy}"
    )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_numbers(values: list[Any]) -> bool:
    # Not one by one: the outlines of COCO have many millions.
    try:
        return math.isfinite(sum(array("d", values)))
    except (TypeError, OverflowError):
        return False
