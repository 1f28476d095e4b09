"""Any folder of single-channel TIFFs whose names say well, site and channel."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

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
from cellpipe.wells import well_from_parts

log = logging.getLogger(__name__)


def read_pattern(
    source: Path,
    *,
    file_pattern: str,
    plate: str | None,
    channels: Mapping[str, str] | None,
    pixel_size_um: float | None,
    layout: str = "pattern",
) -> PlateFiles:
    r"""Read the names of the files in a folder, or in its ``Images`` folder.

    Parameters
    ----------
    file_pattern
        Regular expression of a whole file name with the named groups ``channel``, and either
        ``well`` or ``row`` and ``column`` (letters or one-based numbers); ``site`` (else 1) and
        ``plane`` may be there, as in ``(?P<well>[A-H]\d+)_s(?P<site>\d+)_(?P<channel>\w+)\.tif``.
        Files of other names are left out, and counted in the log.
    channels
        Names by the text of the ``channel`` group. A name given here that no file has is a missing
        channel of the plate.

    Raises
    ------
    CellpipeValueError
        If `file_pattern` is no regular expression or lacks a group.
    CellpipeDataError
        If no file name matches, or a channel has more than one plane.
    """
    pattern = _compile(file_pattern)
    folder = image_folders(source)[0]
    matches, others = [], 0
    for path in sorted(folder.iterdir()):
        match = pattern.fullmatch(path.name)
        others += match is None
        if match:
            matches.append((path, match.groupdict()))
    if not matches:
        raise CellpipeDataError(
            f"{folder}: none of {others} file names matches {file_pattern!r}. Correct file_pattern"
        )
    if others:
        log.info("%s: %d files match file_pattern, %d do not", folder, len(matches), others)
    _refuse_stacks(matches, folder)
    name = plate or plate_folder_name(folder)
    ids = dict.fromkeys(text_keys(channels)) | dict.fromkeys(
        sorted({groups["channel"] for _, groups in matches}, key=_natural)
    )
    names = name_channels({key: key for key in ids}, channels, plate=name)
    images = tuple(
        ImageFile(
            well=groups.get("well") or _well(groups),
            site=int(groups.get("site") or 1),
            channel=names[groups["channel"]],
            path=path,
        )
        for path, groups in matches
    )
    return PlateFiles(
        name=name,
        layout=layout,
        channels=tuple(names.values()),
        images=images,
        pixel_size_um=choose_pixel_size(None, pixel_size_um, plate=name),
    )


def _compile(text: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise CellpipeValueError(
            f"file_pattern {text!r} is not a regular expression: {error}"
        ) from error
    groups = set(pattern.groupindex)
    if "channel" not in groups or not ({"well"} <= groups or {"row", "column"} <= groups):
        raise CellpipeValueError(
            f"file_pattern {text!r}: expected the named groups channel and well (or row and "
            f"column), got {sorted(groups)}. Write a group as (?P<well>[A-P][0-9]+)"
        )
    return pattern


def _refuse_stacks(matches: list[tuple[Path, dict[str, str]]], folder: Path) -> None:
    planes: dict[str, set[int]] = {}
    for _, groups in matches:
        planes.setdefault(groups["channel"], set()).add(int(groups.get("plane") or 1))
    stacks = {channel: sorted(ids) for channel, ids in planes.items() if len(ids) > 1}
    if stacks:
        raise CellpipeDataError(
            f"{folder}: expected one plane per channel, got planes by channel {stacks}. "
            "Project the z stacks first, or name one plane in file_pattern"
        )


def _well(groups: dict[str, str]) -> str:
    try:
        return well_from_parts(groups["row"], groups["column"])
    except CellpipeDataError:
        return f"{groups['row']}{groups['column']}"


def _natural(text: str) -> tuple[int, str]:
    """Sort key by which channel 10 comes after channel 9."""
    return (int(text), "") if text.isdigit() else (0, text)
