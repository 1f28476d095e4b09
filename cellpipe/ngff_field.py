"""What is read of OME-Zarr, 0.4 and 0.5: attributes, and the finest level of one image."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.errors import ArrayNotFoundError, GroupNotFoundError

from cellpipe.errors import CellpipeDataError

UM_PER_UNIT = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "meter": 1e6}


def read_attributes(path: Path) -> dict[str, Any] | None:
    """Attributes of a Zarr 2 or 3 group, 0.5's ``ome`` spread out; None if there is no group."""
    try:
        attributes: dict[str, Any] = dict(zarr.open_group(path, mode="r").attrs)
    except (GroupNotFoundError, FileNotFoundError, NotADirectoryError):
        return None
    return {**attributes, **attributes.pop("ome", {})}


def open_field(path: Path) -> "Field":
    """Open the finest level of an OME-Zarr image of one time point and one plane.

    Raises
    ------
    CellpipeDataError
        If there is no image, or it has axes other than c, y, x and singleton t and z.
    """
    attributes = read_attributes(path) or {}
    try:
        multiscale = attributes["multiscales"][0]
        axes = tuple(axis["name"] for axis in multiscale["axes"])
        array = zarr.open_array(path / multiscale["datasets"][0]["path"], mode="r")
        lengths = dict(zip(axes, array.shape, strict=True))
    except (KeyError, IndexError, ValueError, ArrayNotFoundError, FileNotFoundError) as error:
        raise CellpipeDataError(f"{path} is not a readable OME-Zarr image: {error!r}") from error
    if axes[-2:] != ("y", "x") or any(lengths.get(axis, 1) != 1 for axis in "tz"):
        raise CellpipeDataError(
            f"{path}: expected axes c, y, x with at most one time and one plane, got {lengths}"
        )
    return Field(array, axes, attributes)


class Field:
    """The finest level of one image, read channel by channel as (y, x)."""

    def __init__(
        self, array: zarr.Array, axes: tuple[str, ...], attributes: Mapping[str, Any]
    ) -> None:
        self.array = array
        self.axes = axes
        self.attributes = attributes
        self.dtype = array.dtype.newbyteorder("=")
        self.channel_count = array.shape[axes.index("c")] if "c" in axes else 1

    def read(self, channels: Sequence[int]) -> np.ndarray:
        """Pixels (channel, y, x) of the channels at these positions, in native byte order."""
        everything = list(channels) == list(range(self.channel_count))
        # Chunks of all channels decode in parallel when they are asked for at once.
        image = self._at(slice(None)) if everything else np.stack([self._at(c) for c in channels])
        return image.reshape(-1, *image.shape[-2:]).astype(self.dtype, copy=False)

    def _at(self, channel: slice | int) -> np.ndarray:
        kept = {"c": channel, "y": slice(None), "x": slice(None)}
        return np.asarray(self.array[tuple(kept.get(axis, 0) for axis in self.axes)])

    @property
    def pixel_size_um(self) -> float | None:
        """Micrometres per pixel along y, or None where the axis has no unit of length."""
        multiscale = self.attributes["multiscales"][0]
        y = self.axes.index("y")
        unit = UM_PER_UNIT.get(multiscale["axes"][y].get("unit", ""))
        transformations = [
            *multiscale["datasets"][0].get("coordinateTransformations", []),
            *multiscale.get("coordinateTransformations", []),
        ]
        if unit is None or not transformations:
            return None
        steps = [t["scale"][y] for t in transformations if t["type"] == "scale"]
        return float(np.prod(steps)) * unit

    @property
    def channel_labels(self) -> list[str]:
        """Labels of the channels, ``channel 1`` onwards where the image names none."""
        channels = self.attributes.get("omero", {}).get("channels", [])
        labels = [channel.get("label", "") for channel in channels]
        labels += [""] * (self.channel_count - len(labels))
        return [label or f"channel {n + 1}" for n, label in enumerate(labels)]
