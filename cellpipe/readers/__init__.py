"""Layouts of plates on disk, each read into the same description."""

from collections.abc import Mapping
from pathlib import Path

from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.ngff_field import read_attributes
from cellpipe.readers.harmony import find_index, has_harmony_names, read_harmony
from cellpipe.readers.images import ImageFile, PlateFiles
from cellpipe.readers.load_data import find_load_data, read_load_data
from cellpipe.readers.omezarr import FieldImage, ZarrPlate, read_omezarr
from cellpipe.readers.pattern import read_pattern

LAYOUTS = ("harmony", "load_data", "omezarr", "pattern")

__all__ = ["LAYOUTS", "FieldImage", "ImageFile", "PlateFiles", "ZarrPlate", "read_plate"]


def read_plate(
    source: Path,
    *,
    layout: str = "auto",
    plate: str | None = None,
    channels: Mapping[str, str] | None = None,
    pixel_size_um: float | None = None,
    file_pattern: str | None = None,
    image_root: Path | None = None,
) -> PlateFiles | ZarrPlate:
    """Read what a plate consists of; no pixels are read. The parameters are those of `ingest`.

    Raises
    ------
    CellpipeValueError
        If the layout is unknown, or an option does not belong to it.
    CellpipeDataError
        If `source` does not exist or is not of the layout.
    """
    if not source.exists():
        raise CellpipeDataError(f"{source} does not exist")
    if layout == "auto":
        layout = _detect(source, file_pattern)
    if layout not in LAYOUTS:
        raise CellpipeValueError(f"layout: expected auto or one of {LAYOUTS}, got {layout!r}")
    if file_pattern is not None and layout != "pattern":
        raise CellpipeValueError(f"file_pattern belongs to layout pattern, got layout {layout}")
    if image_root is not None and layout != "load_data":
        raise CellpipeValueError(f"image_root belongs to layout load_data, got layout {layout}")
    if layout == "harmony":
        return read_harmony(source, plate=plate, channels=channels, pixel_size_um=pixel_size_um)
    if layout == "omezarr":
        return read_omezarr(source, plate=plate, channels=channels, pixel_size_um=pixel_size_um)
    if layout == "load_data":
        return read_load_data(
            source,
            plate=plate,
            channels=channels,
            pixel_size_um=pixel_size_um,
            image_root=image_root,
        )
    if file_pattern is None:
        raise CellpipeValueError("layout pattern needs file_pattern, a regular expression")
    return read_pattern(
        source,
        file_pattern=file_pattern,
        plate=plate,
        channels=channels,
        pixel_size_um=pixel_size_um,
    )


def _detect(source: Path, file_pattern: str | None) -> str:
    if file_pattern is not None:
        return "pattern"
    if find_load_data(source) is not None:
        return "load_data"
    if read_attributes(source) is not None:
        return "omezarr"
    if find_index(source) is not None or has_harmony_names(source):
        return "harmony"
    raise CellpipeDataError(
        f"{source} is of no known layout: expected a load_data table, an OME-Zarr plate, or a "
        "Harmony folder. For another folder of TIFFs give layout pattern and file_pattern"
    )
