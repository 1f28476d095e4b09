"""What every layout is read into: a plate's channels and its image files by well, site, channel."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cellpipe.errors import CellpipeValueError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageFile:
    """One single-channel image file of a field of view; the file need not exist."""

    well: str
    site: int
    channel: str
    path: Path


@dataclass(frozen=True)
class PlateFiles:
    """One plate as its files describe it.

    `channels` are in the source's order. `shape` is rows and columns of the plate and
    `pixel_size_um` micrometres per pixel, y and x equal; both are None where the source does not
    say. Wells are as in the source, padded or not, and not yet checked to lie on the plate.
    """

    name: str
    layout: str
    channels: tuple[str, ...]
    images: tuple[ImageFile, ...]
    pixel_size_um: float | None
    shape: tuple[int, int] | None = None


def name_channels(
    raw: Mapping[str, str], mapping: Mapping[str, str] | None, *, plate: str
) -> dict[str, str]:
    """Name the channels of a plate: {id: raw name} becomes {id: name}, in the same order.

    `mapping` may rename a channel by its id or by its raw name; the others keep theirs. Of raw
    names that repeat, such as three brightfield planes, the second gets the suffix ``_2``, the
    third ``_3``, with a warning.

    Raises
    ------
    CellpipeValueError
        If `mapping` gives channels of different raw names, or different ids, the same name.
    """
    mapping = text_keys(mapping)
    unused = sorted(set(mapping) - set(raw) - set(raw.values()))
    if unused:
        found = [f"{key} ({name})" if key != name else name for key, name in raw.items()]
        log.warning("plate %s: `channels` names %s, but the plate has %s", plate, unused, found)
    names: dict[str, str] = {}
    owners: dict[str, str] = {}
    for key, label in raw.items():
        name = mapping.get(key, mapping.get(label, label))
        if name in owners and (key in mapping or owners[name] != label):
            raise CellpipeValueError(
                f"plate {plate}: channels {owners[name]!r} and {label!r} would both be called "
                f"{name!r}. Give each its own name with `channels`"
            )
        owners.setdefault(name, label)
        if name in names.values():
            suffixed = _suffixed(name, set(names.values()))
            log.warning(
                "plate %s: more than one channel is called %r; channel %s becomes %r, or name it "
                "with `channels`",
                *(plate, name, key, suffixed),
            )
            name = suffixed
        names[key] = name
    return names


def _suffixed(name: str, taken: set[str]) -> str:
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


def text_keys(mapping: Mapping[str, str] | None) -> dict[str, str]:
    """Return the `channels` option with keys of text: YAML reads ``2: AGP`` as a number."""
    return {str(key): name for key, name in (mapping or {}).items()}


def choose_pixel_size(stated: float | None, option: float | None, *, plate: str) -> float | None:
    """Pixel size in micrometres: the option where given, else what the source states."""
    if option is None:
        return stated
    if option <= 0:
        raise CellpipeValueError(f"pixel_size_um: expected a positive number, got {option}")
    if stated is not None and abs(option - stated) > 0.01 * stated:
        log.warning(
            "plate %s: pixel_size_um is given as %g, the source says %g", plate, option, stated
        )
    return option


def image_folders(source: Path) -> list[Path]:
    """Folders in which a plate's images may lie: ``Images`` of the plate's folder, or that one."""
    folders = (source / "Images", source / "images", source)
    return [folder for folder in folders if folder.is_dir()]


def plate_folder_name(folder: Path) -> str:
    """Name of a plate from its folder: ``BR00117006__2020-11-08T18_18-Measurement1/Images``.

    The folder ``Images`` is skipped, and the measurement after two underscores is cut off.
    """
    folder = folder.resolve()
    folder = folder.parent if folder.name.lower() == "images" else folder
    return folder.name.split("__")[0]
