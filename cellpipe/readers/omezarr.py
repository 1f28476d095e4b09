"""Existing OME-Zarr plates, 0.4 or 0.5, read where they are."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellpipe.errors import CellpipeDataError
from cellpipe.ngff_field import open_field, read_attributes
from cellpipe.readers.images import choose_pixel_size, name_channels


@dataclass(frozen=True)
class FieldImage:
    """One field of view of an OME-Zarr plate; `path` is its image inside the store."""

    well: str
    site: int
    path: str


@dataclass(frozen=True)
class ZarrPlate:
    """One existing OME-Zarr plate.

    `labels` are the channels as the plate's images label them and `channels` the names that they
    get here. Fields that the metadata promises are listed whether or not their image exists.
    """

    name: str
    layout: str
    store: Path
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    fields: tuple[FieldImage, ...]
    pixel_size_um: float | None
    shape: tuple[int, int] | None = None


def read_omezarr(
    source: Path,
    *,
    plate: str | None,
    channels: Mapping[str, str] | None,
    pixel_size_um: float | None,
) -> ZarrPlate:
    """Read the metadata of an OME-Zarr HCS plate.

    Channel labels and pixel size are those of most images. A site's number is its image's name in
    the well, or its position from 1 where the names are not numbers.

    Parameters
    ----------
    channels
        New names by the label of a channel or by its number, from 1.

    Raises
    ------
    CellpipeDataError
        If `source` is no plate, lists more than one acquisition, or holds no readable image.
    """
    attributes = read_attributes(source) or {}
    if "plate" not in attributes:
        raise CellpipeDataError(
            f"{source} is not an OME-Zarr plate: its attributes are {sorted(attributes)}, "
            "expected `plate`. Give the folder of the plate, not of one image"
        )
    metadata = attributes["plate"]
    fields = tuple(
        field for well in metadata["wells"] for field in _well_fields(source, well["path"])
    )
    labels, size = _majority(source, fields)
    name = plate or metadata.get("name") or source.name.partition(".")[0]
    names = name_channels(
        {str(n + 1): label for n, label in enumerate(labels)}, channels, plate=name
    )
    return ZarrPlate(
        name=name,
        layout="omezarr",
        store=source,
        channels=tuple(names.values()),
        labels=labels,
        fields=fields,
        pixel_size_um=choose_pixel_size(size, pixel_size_um, plate=name),
    )


def _well_fields(source: Path, path: str) -> list[FieldImage]:
    attributes = read_attributes(source / path) or {}
    # A well without metadata still owes its first field, which is then reported as missing.
    images: list[dict[str, Any]] = attributes.get("well", {}).get("images", [{"path": "0"}])
    acquisitions = {image["acquisition"] for image in images if "acquisition" in image}
    if len(acquisitions) > 1:
        raise CellpipeDataError(
            f"{source}: well {path} holds acquisitions {sorted(acquisitions)}, expected one. "
            "Export each acquisition as a plate of its own"
        )
    numbered = all(image["path"].isdigit() for image in images)
    return [
        FieldImage(
            well=path.replace("/", ""),
            site=int(image["path"]) if numbered else position,
            path=f"{path}/{image['path']}",
        )
        for position, image in enumerate(images, start=1)
    ]


def _majority(source: Path, fields: tuple[FieldImage, ...]) -> tuple[tuple[str, ...], float | None]:
    found: Counter[tuple[tuple[str, ...], float | None]] = Counter()
    problem = "it lists no wells"
    for field in fields:
        try:
            image = open_field(source / field.path)
        except CellpipeDataError as error:
            problem = str(error)
            continue
        found[tuple(image.channel_labels), image.pixel_size_um] += 1
    if not found:
        raise CellpipeDataError(f"{source} holds no readable image: {problem}")
    return found.most_common(1)[0][0]
