"""Photographs whose every pixel has a class, in ADE20K's layout (Zhou et al. 2017)."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image
from rich.progress import track

from fastvim.training.prefetch import prefetch
from natural_images.classification.folder import SUFFIXES
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError
from natural_images.photographs import is_image, read_photograph

log = logging.getLogger(__name__)

Split = Literal["training", "validation"]

IMAGES, ANNOTATIONS = "images", "annotations"
LAYOUT = (
    f"{IMAGES}/training/*.jpg, {ANNOTATIONS}/training/*.png, {IMAGES}/validation/*.jpg and "
    f"{ANNOTATIONS}/validation/*.png; or without these splits {IMAGES}/*.jpg and "
    f"{ANNOTATIONS}/*.png"
)
NAMES = "objectInfo*.txt"
"""Table of the classes' names, tab-separated, its last column the name and its synonyms."""

IGNORED = 255
"""Label of pixels that count neither in training nor in scores."""
MOST_CLASSES = 254
"""With one more, a class would be stored in annotations as 255 and be taken for ignored pixels."""
CLASSES = 150
"""Of the scene parsing benchmark, where neither a table nor the caller says how many there are."""


@dataclass(frozen=True)
class AnnotatedImages:
    """Images and, beside each, the class of each of its pixels.

    files
        The images; sorted by name.
    annotations
        Folder with an annotation ``<name of the image>.png`` for each.
    classes
        Names in the order of the labels.
    synonyms
        All names that a table gives each class, the one in `classes` among them; empty where there
        is no table, and the names are "class 1", "class 2" and so on.
    """

    files: tuple[Path, ...]
    annotations: Path
    classes: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """Name of an image, without folder and suffix: ADE_val_00000001 say."""
        return self.files[index].stem

    def annotation(self, index: int) -> Path:
        """Where the labels of an image lie."""
        return self.annotations / f"{self.name(index)}.png"

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Decode an image (h, w, 3) uint8 and its labels (h, w) uint8, 255 where ignored.

        Raises NaturalImagesDataError where one of them cannot be read, or both do not fit together.
        """
        image = np.asarray(read_photograph(self.files[index]))
        labels = read_labels(self.annotation(index), len(self.classes))
        if image.shape[:2] != labels.shape:
            turned = labels.shape == image.shape[1::-1]
            raise NaturalImagesDataError(
                f"{self.annotation(index)}: expected {_size(image)} px as in {self.files[index]}, "
                f"got {_size(labels)}. "
                + (
                    "Annotate the image as viewers show it, turned as its EXIF tag says"
                    if turned
                    else "Convert image and annotation together, without resizing one"
                )
            )
        return image, labels


def open_ade20k(path: Path, *, split: Split, classes: int | None = None) -> AnnotatedImages:
    """Open ``images/<split>/*.jpg`` with ``annotations/<split>/*.png``, as they are downloaded.

    Parameters
    ----------
    path
        The folder of both; also one whose ``images`` and ``annotations`` have no splits, for which
        every split is all of it. Names of classes are read from ``objectInfo150.txt`` or another
        ``objectInfo*.txt`` there or in the folder above.
    split
        "training" or "validation".
    classes
        How many there must be; None takes as many as are named, or 150.

    Annotations have one channel: 0 is ignored and becomes 255, class k is stored as k + 1.

    Raises
    ------
    NaturalImagesDataError
        There are no such folders, an image has no annotation, or the number of classes differs.
    """
    path = Path(path).expanduser()
    if split not in get_args(Split):
        raise NaturalImagesValueError(f"split: expected one of {get_args(Split)}, got {split!r}")
    images, annotations = (_split_folder(path, name, split) for name in (IMAGES, ANNOTATIONS))
    files = tuple(sorted(file for file in images.iterdir() if is_image(file)))
    if not files:
        raise NaturalImagesDataError(
            f"{images}: expected images ({', '.join(SUFFIXES)}), got none. Known layout: {LAYOUT}"
        )
    _check_pairs(files, annotations)
    table = _class_table(path)
    synonyms = _class_names(table) if table is not None else ()
    if table is not None and classes is not None and len(synonyms) != classes:
        raise NaturalImagesDataError(
            f"{path}: expected {classes} classes, got {len(synonyms)} in {table}. "
            "Take the images of these classes, set data.classes, or remove the table"
        )
    count = len(synonyms) if table is not None else CLASSES if classes is None else classes
    if not 2 <= count <= MOST_CLASSES:
        raise NaturalImagesDataError(
            f"{path}: expected 2 to {MOST_CLASSES} classes, got {count}. Annotations have 8 bits"
        )
    return AnnotatedImages(
        files=files,
        annotations=annotations,
        classes=tuple(names[0] for names in synonyms)
        or tuple(f"class {number}" for number in range(1, count + 1)),
        synonyms=synonyms,
    )


def check_annotations(source: AnnotatedImages, *, workers: int) -> None:
    """Decode every image and annotation once, in `workers` threads, before a run meets them.

    Raises NaturalImagesDataError that names the first that is damaged, of another size than its
    image, or holds a class that there is not.
    """
    for _ in track(
        prefetch(source.read, range(len(source)), workers=workers),
        description=f"checking {source.files[0].parent.name} images",
        total=len(source),
    ):
        pass


def read_labels(file: Path, classes: int) -> np.ndarray:
    """Decode an annotation to labels (h, w) uint8 in 0 … `classes` − 1, 255 where ignored.

    Raises NaturalImagesDataError for a file that is no such annotation, or holds other classes.
    """
    try:
        with Image.open(file) as image:
            mode, stored = image.mode, np.asarray(image)
    # What a damaged file raises depends on its format and on where the damage is.
    except Exception as error:
        raise NaturalImagesDataError(
            f"{file}: expected an annotation, cannot be read ({error}). Copy it again or remove it "
            "and its image"
        ) from error
    if mode not in ("L", "P"):
        raise NaturalImagesDataError(
            f"{file}: expected one channel of 8 bits, a class a pixel, got a file of mode {mode}. "
            "Raw ADE20K annotations have to be converted to the classes of the benchmark"
        )
    highest = int(stored.max())
    if highest > classes:
        place = np.argwhere(stored == highest)[0]
        raise NaturalImagesDataError(
            f"{file}: expected classes up to {classes} (0 is ignored), got {highest} in row "
            f"{place[0]}, column {place[1]}. Correct the annotation, or data.classes"
        )
    # In 8 bits, 0 − 1 is 255: what is ignored.
    return stored - np.uint8(1)


def _check_pairs(files: Sequence[Path], annotations: Path) -> None:
    stored = {file.stem for file in annotations.glob("*.png") if is_image(file)}
    absent = [file for file in files if file.stem not in stored]
    if absent:
        raise NaturalImagesDataError(
            f"{absent[0]}: expected its annotation {annotations / absent[0].stem}.png, there is "
            f"none, nor of {len(absent) - 1} other images. Complete the data or remove the images"
        )
    stems = Counter(file.stem for file in files)
    twice = [file for file in files if stems[file.stem] > 1]
    if twice:
        raise NaturalImagesDataError(
            f"{twice[0]}: expected one image of this name, got one of another type beside it. "
            "Remove one"
        )
    if len(stored) > len(files):
        count = len(stored) - len(files)
        log.warning("%s: %d annotations have no image and are not used", annotations, count)


def _split_folder(path: Path, kind: str, split: str) -> Path:
    """Folder of a split's images or annotations; `path`/`kind` itself where there are no splits."""
    folder = path / kind
    if (folder / split).is_dir():
        return folder / split
    other = [name for name in get_args(Split) if (folder / name).is_dir()]
    if folder.is_dir() and not other:
        return folder
    raise NaturalImagesDataError(
        f"{path}: expected a folder {kind}/{split}, got "
        f"{f'{kind}/{other[0]} alone' if other else 'none'}. Known layout: {LAYOUT}"
    )


def _class_table(path: Path) -> Path | None:
    """The table of names in the folder or the one above; None where there is none."""
    tables = sorted(path.glob(NAMES)) or sorted(path.resolve().parent.glob(NAMES))
    return tables[0] if tables else None


def _class_names(table: Path) -> tuple[tuple[str, ...], ...]:
    """The synonyms of each class."""
    text = table.read_bytes().decode(errors="replace")
    rows = [row.split("\t") for row in text.splitlines()[1:] if row.strip()]
    names = tuple(tuple(name.strip() for name in row[-1].split(",")) for row in rows)
    numbered = [row[0].strip() for row in rows] == [str(n) for n in range(1, len(rows) + 1)]
    first = {synonyms[0] for synonyms in names}
    if not rows or not numbered or not all(first) or len(first) < len(names):
        raise NaturalImagesDataError(
            f"{table}: expected a header and tab-separated rows 1, 2, … with different names "
            "in the last column. Copy it again, or remove it"
        )
    return names


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]} × {pixels.shape[0]}"
