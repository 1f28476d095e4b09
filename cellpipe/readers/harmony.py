"""Harmony and Columbus exports of Opera Phenix and Operetta microscopes, JUMP's usual layout.

A folder of ``r01c01f01p01-ch1sk1fk1fl1.tiff`` beside ``Index.idx.xml`` or ``Index.xml``. Version 1
of the XML states a channel's name and pixel size with each image; version 2 (Harmony 7) states them
once per channel, in ``Maps``. The TIFF's resolution tag is the camera's pitch and is not read.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from cellpipe import schema
from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.readers.images import (
    ImageFile,
    PlateFiles,
    choose_pixel_size,
    image_folders,
    name_channels,
    plate_folder_name,
    text_keys,
)
from cellpipe.readers.pattern import read_pattern

INDEX_NAMES = ("Index.idx.xml", "Index.xml")

FILE_PATTERN = (
    r"r(?P<row>\d+)c(?P<column>\d+)f(?P<site>\d+)p(?P<plane>\d+)"
    r"-ch(?P<channel>\d+)sk\d+fk\d+fl\d+\.tiff?"
)

JUMP_DYES = {
    "HOECHST 33342": "DNA",
    "Alexa 488": "ER",
    "488 long": "RNA",
    "Alexa 568": "AGP",
    "Alexa 647": "Mito",
    "Brightfield High": "HighZBF",
    "Brightfield Low": "LowZBF",
}
"""Cell Painting channels by the filter sets of JUMP's microscopes; other names stay as they are."""


def find_index(source: Path) -> Path | None:
    """Return the index file of a plate folder or of its ``Images`` folder, if there is one."""
    candidates = (folder / name for folder in image_folders(source) for name in INDEX_NAMES)
    return next((path for path in candidates if path.is_file()), None)


def has_harmony_names(source: Path) -> bool:
    """Whether a plate folder or its ``Images`` folder holds files named as Harmony names them."""
    return any(
        re.fullmatch(FILE_PATTERN, path.name)
        for folder in image_folders(source)
        for path in folder.iterdir()
    )


def read_harmony(
    source: Path,
    *,
    plate: str | None,
    channels: Mapping[str, str] | None,
    pixel_size_um: float | None,
) -> PlateFiles:
    """Read the index file of a Harmony export, or its file names where there is none.

    Parameters
    ----------
    channels
        Names by channel number or by the microscope's channel name, added to `JUMP_DYES`. Without
        an index file it must name the channel numbers, as in ``{"5": "DNA"}``.

    Raises
    ------
    CellpipeDataError
        If the XML is damaged, holds no images, more than one plane per channel (z stacks are not
        projected), or pixel sizes that differ between channels.
    """
    path = find_index(source)
    if path is None:
        return _read_names(source, plate=plate, channels=channels, pixel_size_um=pixel_size_um)
    index = _parse(path)
    name = plate or index.plate or plate_folder_name(path.parent)
    _refuse_stacks(index, path)
    ids = sorted({image["ChannelID"] for image in index.images}, key=int)
    raw = {key: index.channels[key].get("ChannelName", key) for key in ids}
    dyes = {label: JUMP_DYES[label] for label in raw.values() if label in JUMP_DYES}
    names = name_channels(raw, dyes | text_keys(channels), plate=name)
    images = tuple(
        ImageFile(
            well=schema.well_name(int(image["Row"]) - 1, int(image["Col"]) - 1),
            site=int(image["FieldID"]),
            channel=names[image["ChannelID"]],
            path=path.parent / image["URL"],
        )
        for image in index.images
    )
    return PlateFiles(
        name=name,
        layout="harmony",
        channels=tuple(names.values()),
        images=images,
        pixel_size_um=choose_pixel_size(_pixel_size_um(index, path), pixel_size_um, plate=name),
        shape=index.shape,
    )


_REQUIRED = ("URL", "Row", "Col", "FieldID", "ChannelID")


@dataclass
class _Index:
    """Facts of an index file, as texts by tag; `channels` by ChannelID."""

    plate: str | None = None
    shape: tuple[int, int] | None = None
    channels: dict[str, dict[str, str]] = field(default_factory=dict)
    images: list[dict[str, str]] = field(default_factory=list)


def _parse(path: Path) -> _Index:
    index = _Index()
    try:
        # iterparse, since the index of a whole plate is tens of megabytes; tags lose their
        # namespace, which differs between Harmony's versions.
        for _, element in ElementTree.iterparse(path):
            tag = element.tag.rpartition("}")[2]
            facts = {child.tag.rpartition("}")[2]: (child.text or "") for child in element}
            if tag == "Plate":
                index.plate = facts.get("Name") or facts.get("PlateID")
                if "PlateRows" in facts and "PlateColumns" in facts:
                    index.shape = int(facts["PlateRows"]), int(facts["PlateColumns"])
            elif tag == "Entry":
                index.channels.setdefault(element.get("ChannelID", ""), {}).update(facts)
                element.clear()
            elif tag == "Image" and "URL" in facts:
                index.images.append(facts | {key: facts[key].strip() for key in _REQUIRED})
                index.channels.setdefault(facts["ChannelID"], {}).update(facts)
                element.clear()
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise CellpipeDataError(
            f"{path} is not a readable Harmony index ({error}). Copy it again from the microscope"
        ) from error
    if not index.images:
        raise CellpipeDataError(f"{path} lists no images. Is it the index of an aborted run?")
    return index


def _pixel_size_um(index: _Index, path: Path) -> float | None:
    used = {image["ChannelID"] for image in index.images}
    sizes = {
        float(facts[axis]) * 1e6
        for key, facts in index.channels.items()
        for axis in ("ImageResolutionX", "ImageResolutionY")
        if key in used and axis in facts
    }
    if sizes and max(sizes) > 1.001 * min(sizes):
        raise CellpipeDataError(
            f"{path}: expected one pixel size for all channels, in x as in y, got "
            f"{sorted(sizes)} um. Ingest channels of one binning"
        )
    return min(sizes, default=None)


def _refuse_stacks(index: _Index, path: Path) -> None:
    planes: dict[str, set[str]] = {}
    for image in index.images:
        planes.setdefault(image["ChannelID"], set()).add(image.get("PlaneID", "1"))
    stacks = {channel: sorted(ids, key=int) for channel, ids in planes.items() if len(ids) > 1}
    if stacks:
        raise CellpipeDataError(
            f"{path}: expected one plane per channel, got planes by channel number {stacks}. "
            "Export a projection from Harmony; z stacks are not projected here"
        )


def _read_names(
    source: Path,
    *,
    plate: str | None,
    channels: Mapping[str, str] | None,
    pixel_size_um: float | None,
) -> PlateFiles:
    if not channels:
        raise CellpipeValueError(
            f"{source} has no {' or '.join(INDEX_NAMES)}, so its channel numbers have no names. "
            'Give them with `channels`, such as {"1": "Mito", "2": "AGP"}'
        )
    return read_pattern(
        source,
        layout="harmony",
        file_pattern=FILE_PATTERN,
        plate=plate,
        channels=channels,
        pixel_size_um=pixel_size_um,
    )
