"""One field of view: read its images, judge them, and write them into the plate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ngio import Channel

from cellpipe.errors import CellpipeDataError
from cellpipe.ngff import write_image
from cellpipe.ngff_field import open_field, read_attributes
from cellpipe.quality import constant_value, measure_quality
from cellpipe.readers.omezarr import FieldImage, ZarrPlate
from cellpipe.readers.tiff import USABLE_TYPES, BadImageError, read_tiff
from fastvim.files import atomic_path

RECORD = "cellpipe"
"""Attribute of a written field that holds its `FieldReport` and the files that it was made from."""

RECORD_VERSION = 1
"""To be raised when pixels or quality come out otherwise: older fields are then written again."""

COLOURS = {"DNA": "0000FF", "ER": "00FF00", "RNA": "FFFF00", "AGP": "FF7F00", "Mito": "FF00FF"}
OTHER_COLOURS = ("00FFFF", "FF0000", "7F7FFF", "7FFF7F", "FF7FBF")
BRIGHTFIELD_COLOUR = "808080"


@dataclass(frozen=True)
class Problem:
    """Why an image goes to quarantine; `channel` and `file` are empty where all of a field do."""

    channel: str
    file: str
    reason: str


@dataclass(frozen=True)
class FieldFiles:
    """A field of view to be written: one existing file per channel, in the plate's order."""

    well: str
    site: int
    files: dict[str, Path]

    @property
    def image(self) -> str:
        """Path of the field inside the plate, ``A/01/1``."""
        return f"{self.well[:-2]}/{self.well[-2:]}/{self.site}"


@dataclass(frozen=True)
class FieldReport:
    """What is known of a field of view once its images have been read.

    By channel, for the images that could be read: `files`, where they come from, `shapes` (height,
    width), `types`, names of pixel types, and `quality` as `measure_quality` returns it. A field
    with `problems` is not used.
    """

    well: str
    site: int
    image: str
    files: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    quality: dict[str, dict[str, float]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


def write_field(task: FieldFiles, *, store: Path, pixel_size_um: float | None) -> FieldReport:
    """Write one field into `store` as uint16, values unchanged, unless one of its images is bad.

    The field appears under its name when it is whole. One that is there already, made from the
    same files (name, size and time of change) with the same pixel size, is left as it is.

    Raises
    ------
    CellpipeDataError
        If it cannot be written, as on a full disk.
    """
    target = store / task.image
    made_from = {
        "version": RECORD_VERSION,
        "sources": _fingerprint(task),
        "pixel_size_um": pixel_size_um,
    }
    record = (read_attributes(target) or {}).get(RECORD, {})
    if record.get("made_from") == made_from:
        return FieldReport(
            well=task.well,
            site=task.site,
            image=task.image,
            files={channel: str(path) for channel, path in task.files.items()},
            shapes={channel: tuple(shape) for channel, shape in record["shapes"].items()},
            types=record["types"],
            quality=record["quality"],
        )
    images: dict[str, np.ndarray] = {}
    problems = []
    for channel, path in task.files.items():
        try:
            images[channel] = _not_constant(read_tiff(path))
        except BadImageError as error:
            problems.append(Problem(channel, str(path), str(error)))
    files = {channel: str(task.files[channel]) for channel in images}
    report = _report(task, task.image, files, images, problems)
    if problems or len(set(report.shapes.values())) > 1:
        return report
    measured = {"shapes": report.shapes, "types": report.types, "quality": report.quality}
    try:
        with atomic_path(target) as temporary:
            write_image(
                temporary,
                np.stack([image.astype(np.uint16) for image in images.values()]),
                name=task.image,
                pixel_size_um=pixel_size_um,
                channels=_display(images),
                attributes={RECORD: {"made_from": made_from, **measured}},
            )
    except OSError as error:
        raise CellpipeDataError(
            f"{target} could not be written: {error}. Once that is settled run the same command "
            "again; the fields written so far are kept"
        ) from error
    return report


def check_zarr_field(task: FieldImage, *, plate: ZarrPlate) -> FieldReport:
    """Read one field of somebody else's plate and measure it where it is."""
    place = str(plate.store / task.path)
    try:
        images = _read_zarr_field(plate, task)
    except BadImageError as error:
        return FieldReport(
            task.well, task.site, task.path, problems=(Problem("", place, str(error)),)
        )
    problems = []
    for channel, image in list(images.items()):
        try:
            _not_constant(image)
        except BadImageError as error:
            problems.append(Problem(channel, place, str(error)))
            del images[channel]
    return _report(task, task.path, dict.fromkeys(images, place), images, problems)


def _read_zarr_field(plate: ZarrPlate, task: FieldImage) -> dict[str, np.ndarray]:
    try:
        found = open_field(plate.store / task.path)
    except CellpipeDataError as error:
        raise BadImageError(str(error)) from error
    if tuple(found.channel_labels) != plate.labels:
        raise BadImageError(
            f"has channels {found.channel_labels}, most of the plate has {list(plate.labels)}"
        )
    if found.dtype not in USABLE_TYPES:
        raise BadImageError(f"has pixels of type {found.dtype}, expected uint8 or uint16")
    try:
        pixels = found.read(range(len(plate.labels)))
    except Exception as error:
        # A damaged chunk fails in whatever way its codec does.
        raise BadImageError(f"unreadable: {error}") from error
    return dict(zip(plate.channels, pixels, strict=True))


def _not_constant(image: np.ndarray) -> np.ndarray:
    value = constant_value(image)
    if value is not None:
        raise BadImageError(f"is empty: all pixels are {value}")
    return image


def _report(
    task: FieldFiles | FieldImage,
    image: str,
    files: dict[str, str],
    images: Mapping[str, np.ndarray],
    problems: Sequence[Problem],
) -> FieldReport:
    return FieldReport(
        well=task.well,
        site=task.site,
        image=image,
        files=files,
        shapes={channel: pixels.shape for channel, pixels in images.items()},
        types={channel: pixels.dtype.name for channel, pixels in images.items()},
        quality={channel: measure_quality(pixels) for channel, pixels in images.items()},
        problems=tuple(problems),
    )


def _fingerprint(task: FieldFiles) -> list[list[Any]]:
    facts = [(channel, path.name, path.stat()) for channel, path in task.files.items()]
    return [[channel, name, stat.st_size, stat.st_mtime_ns] for channel, name, stat in facts]


def _display(images: Mapping[str, np.ndarray]) -> list[Channel]:
    """How viewers show the channels: label, fixed colour, and the range of all but 0.2 %."""
    channels = []
    for position, (name, image) in enumerate(images.items()):
        colour = COLOURS.get(name, OTHER_COLOURS[position % len(OTHER_COLOURS)])
        if name.lower().startswith("brightfield") or name.upper().endswith("BF"):
            colour = BRIGHTFIELD_COLOUR
        # Every fourth pixel of every fourth row says the same as all of them.
        low, high = np.percentile(image[::4, ::4], (0.1, 99.9))
        start, end = int(low), max(int(high), int(low) + 1)
        channels.append(
            Channel.default_init(name, color=colour, start=start, end=end, data_type=image.dtype)
        )
    return channels
