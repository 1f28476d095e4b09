"""OME-Zarr 0.5 plates, fields and labels as this project writes them.

Written with zarr alone: a site takes a third of the time that ngio 1.1 needs, a plate of unknown
pixel size gets axes without a unit, and labels can be written under a temporary name.
https://ngff.openmicroscopy.org/0.5
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from cellpipe import schema

VERSION = "0.5"

CHUNK_PX = 540
"""A quarter of JUMP's 1080 x 1080 field: a cell's crop reads one to four chunks of 0.6 MB."""

SMALLEST_LEVEL_PX = 256

UM_PER_UNIT = {
    "angstrom": 1e-4,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "meter": 1e6,
}


def write_image(
    path: Path,
    image: np.ndarray,
    *,
    pixel_size_um: float | None,
    ome: Mapping[str, Any],
    attributes: Mapping[str, Any],
) -> None:
    """Write a field (c, y, x), averaged into its coarser levels, as an OME-Zarr image.

    Parameters
    ----------
    path
        Folder that does not exist yet.
    ome
        Further entries of the ``ome`` attribute, such as ``omero``.
    attributes
        Further attributes beside it.
    """
    _write_pyramid(path, image, _halve_mean, pixel_size_um, ome, attributes)


def write_label_image(path: Path, labels: np.ndarray, *, pixel_size_um: float | None) -> None:
    """Write labels (y, x) as an OME-Zarr label image; coarser levels take every second pixel."""
    ome = {"image-label": {"source": {"image": "../../"}}}
    _write_pyramid(path, labels, _halve_nearest, pixel_size_um, ome, {})


def _write_pyramid(
    path: Path,
    image: np.ndarray,
    halve: Callable[[np.ndarray], np.ndarray],
    pixel_size_um: float | None,
    ome: Mapping[str, Any],
    attributes: Mapping[str, Any],
) -> None:
    group = zarr.create_group(path, zarr_format=3)
    names = "cyx"[-image.ndim :]
    datasets: list[dict[str, Any]] = []
    scale = pixel_size_um or 1.0
    while True:
        level = str(len(datasets))
        _write_array(group, level, image, names)
        steps = [1.0 if name == "c" else scale for name in names]
        transformation = {"type": "scale", "scale": steps}
        datasets.append({"path": level, "coordinateTransformations": [transformation]})
        if max(image.shape[-2:]) <= SMALLEST_LEVEL_PX:
            break
        image, scale = halve(image), 2 * scale
    unit = {} if pixel_size_um is None else {"unit": "micrometer"}
    space = [{"name": name, "type": "space", **unit} for name in "yx"]
    axes = [{"name": "c", "type": "channel"}, *space] if "c" in names else space
    multiscale: dict[str, Any] = {"name": path.name.strip("."), "axes": axes, "datasets": datasets}
    group.attrs.put({"ome": {"version": VERSION, "multiscales": [multiscale], **ome}, **attributes})


def _write_array(group: zarr.Group, name: str, image: np.ndarray, axes: str) -> None:
    sides = [1 if axis == "c" else CHUNK_PX for axis in axes]
    counts = [-(-length // side) for length, side in zip(image.shape, sides, strict=True)]
    chunks = [-(-length // count) for length, count in zip(image.shape, counts, strict=True)]
    array = group.create_array(
        name,
        shape=image.shape,
        dtype=image.dtype,
        chunks=tuple(chunks),
        # One file per level, all channels together: 9 x 384 fields stay a few thousand files.
        shards=tuple(chunk * count for chunk, count in zip(chunks, counts, strict=True)),
        # On JUMP's fields 1.8 to 1 at 260 MB/s on one core; zarr's default 1.6 to 1 at 130 MB/s,
        # lz4 with shuffle 1.6 to 1 at 350 MB/s.
        compressors=BloscCodec(
            typesize=image.dtype.itemsize, cname="zstd", clevel=1, shuffle="bitshuffle"
        ),
        dimension_names=list(axes),
    )
    array[...] = image


def _halve_mean(image: np.ndarray) -> np.ndarray:
    even = image[:, : image.shape[1] // 2 * 2, : image.shape[2] // 2 * 2]
    total = even[:, ::2, ::2].astype(np.uint32)
    total += even[:, 1::2, ::2]
    total += even[:, ::2, 1::2]
    total += even[:, 1::2, 1::2]
    return ((total + 2) >> 2).astype(image.dtype)


def _halve_nearest(labels: np.ndarray) -> np.ndarray:
    return labels[: labels.shape[0] // 2 * 2 : 2, : labels.shape[1] // 2 * 2 : 2]


def write_plate_metadata(
    store: Path, *, name: str, shape: tuple[int, int], images: Sequence[str]
) -> None:
    """Describe the plate and its wells; `images` are paths such as ``A/01/1`` inside `store`.

    The plate's own entry is written last: a plate that has it has all its wells.
    """
    wells: dict[str, list[str]] = {}
    for image in images:
        well, _, field = image.rpartition("/")
        wells.setdefault(well, []).append(field)
    rows = [schema.well_name(row, 0)[:-2] for row in range(shape[0])]
    columns = [f"{column + 1:02d}" for column in range(shape[1])]
    for row in dict.fromkeys(well.partition("/")[0] for well in wells):
        zarr.open_group(store / row, mode="a", zarr_format=3)
    for well, fields in wells.items():
        # The version is repeated inside, where some readers look for it (ome-zarr-models #199).
        entry = {"images": [{"path": field} for field in fields], "version": VERSION}
        set_attributes(store / well, {"ome": {"version": VERSION, "well": entry}})
    plate = {
        "name": name,
        "rows": [{"name": row} for row in rows],
        "columns": [{"name": column} for column in columns],
        "wells": [_well_entry(well, rows, columns) for well in wells],
        "field_count": max(map(len, wells.values())),
        "version": VERSION,
    }
    set_attributes(store, {"ome": {"version": VERSION, "plate": plate}})


def _well_entry(well: str, rows: list[str], columns: list[str]) -> dict[str, Any]:
    row, _, column = well.partition("/")
    return {"path": well, "rowIndex": rows.index(row), "columnIndex": columns.index(column)}


def begin_plate(store: Path, marker: Mapping[str, Any]) -> None:
    """Make `store` a group with the attributes `marker` alone: not a plate until it is complete."""
    zarr.open_group(store, mode="a", zarr_format=3).attrs.put(dict(marker))


def set_attributes(path: Path, attributes: Mapping[str, Any]) -> None:
    """Set attributes of a Zarr 3 group, creating it where it is not there; others stay."""
    zarr.open_group(path, mode="a", zarr_format=3).attrs.update(attributes)
