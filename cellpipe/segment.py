"""Nuclei in every site of a plate: label images and the cell table."""

import json
import logging
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from skimage.measure import regionprops_table

from cellpipe import schema
from cellpipe.corrected import CorrectedPlate
from cellpipe.errors import CellpipeValueError
from cellpipe.files import write_table
from cellpipe.nuclei import segment_nuclei
from cellpipe.parallel import parallel_map
from cellpipe.plate import Plate

log = logging.getLogger(__name__)


def segment(
    sites: Path,
    *,
    illumination: Path,
    output: Path,
    nucleus_diameter: float,
    diameter_unit: str = "um",
    channel: str = "DNA",
    jobs: int = 1,
) -> None:
    """Label the nuclei of a plate and write its cell table (Parquet), one row a nucleus.

    The label images go to ``<site>/labels/nuclei`` in the plate, or beside the site table when the
    plate is somebody else's. The cell table is written last and marks the stage as complete.

    Parameters
    ----------
    nucleus_diameter, diameter_unit
        Typical diameter of a nucleus, in ``"um"`` or ``"px"``; micrometres need a plate with a
        known pixel size.
    channel
        Name of the channel that shows the nuclei.
    """
    plate = Plate.open(sites)
    diameter_px = _diameter_px(plate, nucleus_diameter, diameter_unit)
    if channel not in plate.channels:
        raise CellpipeValueError(
            f"segment.channel is {channel!r}, but plate {plate.name} has {list(plate.channels)}"
        )
    label_site = partial(
        _label_site, sites=sites, illumination=illumination, channel=channel, diameter=diameter_px
    )
    rows = list(range(len(plate.sites)))
    tables = list(parallel_map(label_site, rows, jobs=jobs, description=f"Segmenting {plate.name}"))
    cells = pd.concat(tables, ignore_index=True) if tables else _cell_columns(0)
    empty = [row for row, table in zip(rows, tables, strict=True) if table.empty]
    if len(cells) == 0:
        log.warning("plate %s: no nuclei in any of %d sites", plate.name, len(rows))
    elif empty:
        wells = plate.sites[schema.WELL].iloc[empty]
        log.warning("plate %s: no nuclei in %d sites: %s", plate.name, len(empty), list(wells))
    metadata = {"channels": list(plate.channels), "pixel_size_um": plate.pixel_size_um}
    write_table(
        _with_site_columns(cells, plate.sites), output, metadata={"cellpipe": json.dumps(metadata)}
    )


def _diameter_px(plate: Plate, diameter: float, unit: str) -> float:
    if unit == "px":
        return diameter
    if unit != "um":
        raise CellpipeValueError(f"segment.diameter_unit: expected 'um' or 'px', got {unit!r}")
    if plate.pixel_size_um is None:
        raise CellpipeValueError(
            f"plate {plate.name} has no pixel size, so a diameter of {diameter} um is unknown in "
            "pixels. Give the plate's pixel_size_um, or set segment.diameter_unit to px"
        )
    return diameter / plate.pixel_size_um


def _label_site(
    row: int, *, sites: Path, illumination: Path, channel: str, diameter: float
) -> pd.DataFrame:
    corrected = CorrectedPlate.open(sites, illumination)
    labels = segment_nuclei(corrected.read(row, [channel])[0], diameter_px=diameter)
    corrected.plate.write_labels(row, labels.astype(np.uint32), "nuclei")
    return _measure(labels, row)


def _measure(labels: np.ndarray, row: int) -> pd.DataFrame:
    height, width = labels.shape
    properties = regionprops_table(labels, properties=("label", "centroid", "area", "bbox"))
    count = len(properties["label"])
    cells = _cell_columns(count)
    cells["site_row"] = np.int32(row)
    cells[schema.OBJECT] = properties["label"].astype(np.int32)
    cells["centroid_y"] = properties["centroid-0"].astype(np.float64)
    cells["centroid_x"] = properties["centroid-1"].astype(np.float64)
    cells["area_px"] = properties["area"].astype(np.float64)
    cells["edge"] = (
        (properties["bbox-0"] == 0)
        | (properties["bbox-1"] == 0)
        | (properties["bbox-2"] == height)
        | (properties["bbox-3"] == width)
    )
    cells[schema.CELL_COUNT] = np.int32(count)
    return cells


def _cell_columns(count: int) -> pd.DataFrame:
    """Cell table of `count` rows with the right columns and types, so that none is a valid one."""
    types = {
        "site_row": np.int32,
        schema.OBJECT: np.int32,
        "centroid_y": np.float64,
        "centroid_x": np.float64,
        "area_px": np.float64,
        "edge": bool,
        schema.CELL_COUNT: np.int32,
    }
    return pd.DataFrame({name: np.zeros(count, dtype) for name, dtype in types.items()})


def _with_site_columns(cells: pd.DataFrame, sites: pd.DataFrame) -> pd.DataFrame:
    """Put the site's Metadata_ and QC_ columns and the cell's own key before the measurements."""
    described = sites.filter(regex="^(Metadata|QC)_").iloc[cells["site_row"].to_numpy()]
    table = pd.concat([described.reset_index(drop=True), cells.reset_index(drop=True)], axis=1)
    key = table[list(schema.SITE_KEY)].astype(str).agg("__".join, axis=1) if len(table) else ""
    table.insert(0, "cell_id", key + "__" + table[schema.OBJECT].astype(str))
    return table
