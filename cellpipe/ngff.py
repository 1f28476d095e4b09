"""OME-Zarr 0.5 plates, fields and labels, written with ngio.

ngio lays out the files and their metadata; pixels go into the arrays that it made.
https://ngff.openmicroscopy.org/0.5
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import ngio
import numpy as np
import zarr
from zarr.codecs import BloscCodec

from cellpipe import schema

VERSION: Literal["0.5"] = "0.5"

CHUNK_PX = 640
"""Longest side of a chunk, where halves allow: a quarter of JUMP's 1080 x 1080 field, 0.6 MB."""

SMALLEST_LEVEL_PX = 256


def write_image(
    path: Path,
    image: np.ndarray,
    *,
    name: str,
    pixel_size_um: float | None,
    channels: Sequence[ngio.Channel],
    attributes: Mapping[str, Any],
) -> None:
    """Write a field (c, y, x), averaged into its coarser levels, as an OME-Zarr image.

    Parameters
    ----------
    path
        Folder that does not exist yet.
    channels
        How viewers show the planes.
    attributes
        Attributes beside ``ome``.
    """
    _write_pyramid(path, image, _halve_mean, name, pixel_size_um, channels)
    set_attributes(path, attributes)


def write_label_image(
    path: Path, labels: np.ndarray, *, name: str, pixel_size_um: float | None
) -> None:
    """Write labels (y, x) as an OME-Zarr label image; coarser levels take every second pixel."""
    _write_pyramid(path, labels, _halve_nearest, name, pixel_size_um, None)
    with _edit_ome(path) as ome:
        ome["image-label"] = {"source": {"image": "../../"}}


def _write_pyramid(
    path: Path,
    image: np.ndarray,
    halve: Callable[[np.ndarray], np.ndarray],
    name: str,
    pixel_size_um: float | None,
    channels: Sequence[ngio.Channel] | None,
) -> None:
    chunk = [_chunk_side(length) for length in image.shape[-2:]]
    planes = image.shape[:-2]
    container = ngio.create_empty_ome_zarr(
        path,
        shape=image.shape,
        pixelsize=pixel_size_um or 1.0,
        axes_names="cyx"[-image.ndim :],
        # Halved, rounding down, until no side is longer than the smallest level's.
        levels=1 + (max(image.shape[-2:]) // (SMALLEST_LEVEL_PX + 1)).bit_length(),
        channels_meta=channels,
        name=name,
        ngff_version=VERSION,
        chunks=(*[1] * len(planes), *chunk),
        # One file per level, all channels together: 9 x 384 fields stay a few thousand files.
        shards=image.shape,
        dtype=image.dtype.name,
        # On JUMP's fields 1.8 to 1 at 260 MB/s on one core; zarr's default 1.6 to 1 at 130 MB/s,
        # lz4 with shuffle 1.6 to 1 at 350 MB/s.
        compressors=BloscCodec(
            typesize=image.dtype.itemsize, cname="zstd", clevel=1, shuffle="bitshuffle"
        ),
    )
    # ngio's set_array and consolidate(mode="auto") read the pixels back to coarsen them: 49 MB/s
    # for 8 x 1080 x 1080, where this makes 92 (medians of nine, two cores).
    for level in container.level_paths:
        if level != container.level_paths[0]:
            image = halve(image)
        zarr.open_array(path / level, mode="r+")[...] = image
    if pixel_size_um is None:
        _remove_units(path)


def _chunk_side(length: int) -> int:
    """Halve while that leaves no remainder: ngio splits shards that chunks do not divide."""
    while length > CHUNK_PX and length % 2 == 0:
        length //= 2
    return length


def _remove_units(path: Path) -> None:
    """Take back ngio's micrometres where the pixel size is not known."""
    with _edit_ome(path) as ome:
        for axis in ome["multiscales"][0]["axes"]:
            axis.pop("unit", None)


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

    What `begin_plate` wrote stays beside it.
    """
    parts = [image.split("/") for image in images]
    fields = [ngio.ImageInWellPath(row=row, column=col, path=field) for row, col, field in parts]
    # Given as an open group, what is in the plate stays; all at once takes 7 s for 3,456 fields.
    group = zarr.open_group(store, mode="r+")
    ngio.create_empty_plate(group, name=name, images=fields, ngff_version=VERSION)
    rows = [schema.well_name(row, 0)[:-2] for row in range(shape[0])]
    columns = [f"{column + 1:02d}" for column in range(shape[1])]
    # ngio names the rows and columns in use, AA before B; viewers draw the plate by this list.
    with _edit_ome(store) as ome:
        for well in ome["plate"]["wells"]:
            row, _, column = well["path"].partition("/")
            well |= {"rowIndex": rows.index(row), "columnIndex": columns.index(column)}
        ome["plate"]["rows"] = [{"name": row} for row in rows]
        ome["plate"]["columns"] = [{"name": column} for column in columns]


def begin_plate(store: Path, marker: Mapping[str, Any]) -> None:
    """Make `store` a group with the attributes `marker` alone: not a plate until it is complete."""
    zarr.open_group(store, mode="a", zarr_format=3).attrs.put(dict(marker))


def set_attributes(path: Path, attributes: Mapping[str, Any]) -> None:
    """Set attributes of a Zarr 3 group, creating it where it is not there; others stay."""
    zarr.open_group(path, mode="a", zarr_format=3).attrs.update(attributes)


@contextmanager
def _edit_ome(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a group's ``ome`` attribute to be changed in place."""
    group = zarr.open_group(path, mode="r+")
    attributes: dict[str, Any] = group.attrs.asdict()
    yield attributes["ome"]
    group.attrs["ome"] = attributes["ome"]
