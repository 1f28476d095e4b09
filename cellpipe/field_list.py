"""Which files make which field of view, and which fields cannot be made at all."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cellpipe.errors import CellpipeDataError
from cellpipe.fields import FieldFiles, FieldReport, Problem
from cellpipe.readers import FieldImage, PlateFiles, ZarrPlate
from cellpipe.wells import inside, pad_well, parse_well

log = logging.getLogger(__name__)


def plate_wells(plate: PlateFiles | ZarrPlate) -> set[tuple[int, int]]:
    """Wells that the plate names, as zero-based row and column; others are left out."""
    items = plate.fields if isinstance(plate, ZarrPlate) else plate.images
    positions = (_position(name) for name in {item.well for item in items})
    return {position for position in positions if position is not None}


def existing_channels(plate: PlateFiles) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split the plate's channels into those of which any file exists, and the missing ones.

    Raises
    ------
    CellpipeDataError
        If no file exists.
    """
    existing = {image.channel for image in plate.images if image.path.is_file()}
    if not existing:
        raise CellpipeDataError(
            f"plate {plate.name}: none of its {len(plate.images)} images exists, the first is "
            f"{next((image.path for image in plate.images), 'not named')}. Correct the path; for "
            "the load_data table of another machine give image_root"
        )
    kept = tuple(channel for channel in plate.channels if channel in existing)
    missing = tuple(channel for channel in plate.channels if channel not in existing)
    if missing:
        log.warning("plate %s has no file of channels %s", plate.name, ", ".join(missing))
    return kept, missing


def list_fields(
    plate: PlateFiles, channels: Sequence[str], shape: tuple[int, int]
) -> tuple[list[FieldFiles], list[FieldReport]]:
    """Gather the files of each field of view; report those that lack one or have one too many."""
    fields: dict[tuple[str, int], dict[str, list[Path]]] = {}
    for image in plate.images:
        well = image.well if _position(image.well) is None else pad_well(image.well)
        files = fields.setdefault((well, image.site), {})
        files.setdefault(image.channel, []).append(image.path)
    complete, reports = [], []
    for (well, site), files in fields.items():
        misplaced = _misplaced(well, shape)
        if misplaced:
            found = [(channel, path) for channel, paths in files.items() for path in paths]
            problems = [Problem(channel, str(path), misplaced) for channel, path in found]
        else:
            problems = list(_file_problems(files, channels))
        if problems:
            reports.append(FieldReport(well, site, "", problems=tuple(problems)))
        else:
            complete.append(FieldFiles(well, site, {name: files[name][0] for name in channels}))
    return complete, reports


def list_zarr_fields(
    plate: ZarrPlate, shape: tuple[int, int]
) -> tuple[list[FieldImage], list[FieldReport]]:
    """Pad the wells' names; report the fields whose well is none of the plate's."""
    complete, reports = [], []
    for field in plate.fields:
        misplaced = _misplaced(field.well, shape)
        if misplaced:
            problems = (Problem("", str(plate.store / field.path), misplaced),)
            reports.append(FieldReport(field.well, field.site, field.path, problems=problems))
        else:
            complete.append(replace(field, well=pad_well(field.well)))
    return complete, reports


def plate_order(report: FieldReport) -> tuple[tuple[int, int], int]:
    """Sort key: by row, column and site; what lies on no plate comes first."""
    return _position(report.well) or (-1, -1), report.site


def _position(well: str) -> tuple[int, int] | None:
    try:
        return parse_well(well)
    except CellpipeDataError:
        return None


def _misplaced(well: str, shape: tuple[int, int]) -> str:
    """Why a well is none of the plate's, or an empty text."""
    position = _position(well)
    if position is None:
        return f"{well!r} is not a well"
    if not inside(position, shape):
        return f"well {well} lies outside the plate of {shape[0]} rows and {shape[1]} columns"
    return ""


def _file_problems(
    files: Mapping[str, Sequence[Path]], channels: Sequence[str]
) -> Iterable[Problem]:
    for channel in channels:
        paths = files.get(channel, [])
        if not paths:
            yield Problem(channel, "", "no file: the source lists none for this channel")
        elif len(paths) > 1:
            names = ", ".join(map(str, paths))
            yield Problem(channel, str(paths[0]), f"several files of one channel: {names}")
        elif not paths[0].is_file():
            yield Problem(channel, str(paths[0]), "the file does not exist")
