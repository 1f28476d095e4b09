"""Cut a square around every nucleus of a plate into its crop store."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from cellpipe.corrected import CorrectedPlate
from cellpipe.crop_store import CELLS_FILE, CropWriter
from cellpipe.files import read_table_metadata, write_table
from cellpipe.parallel import parallel_map
from cellpipe.plate import Plate
from fastvim.files import atomic_path


def crops(
    cells: Path, *, sites: Path, illumination: Path, output: Path, size_px: int, jobs: int = 1
) -> None:
    """Cut a square around every nucleus that does not touch the border of its field.

    Parameters
    ----------
    cells, sites, illumination
        The plate's cell table, site table and flat fields.
    output
        The crop store: a Zarr group with ``crops`` (cell, channel, y, x) uint16 in
        illumination-corrected counts, attributes ``channels``, ``pixel_size_um``, ``size_px``, and
        ``cells.parquet`` with the cell-table rows in the array's order.
    size_px
        Side of the crop in pixels. Where it reaches over the border of the field, the field is
        mirrored; column ``outside`` holds the mirrored fraction.
    """
    plate = Plate.open(sites)
    table = pd.read_parquet(cells)
    # Sorted by site, so that each field is read once and the array fills front to back.
    table = table[~table["edge"]].sort_values("site_row", kind="stable").reset_index(drop=True)
    corners = table[["centroid_y", "centroid_x"]].round().to_numpy(np.int64) - size_px // 2
    table["outside"] = _outside_fraction(corners, table, plate.sites, size_px)
    groups = [
        (int(row), corners[index]) for row, index in table.groupby("site_row").indices.items()
    ]
    cut = partial(_cut_site, sites=sites, illumination=illumination, size=size_px)
    with atomic_path(output) as temporary:
        writer = CropWriter(
            temporary,
            count=len(table),
            channels=plate.channels,
            size_px=size_px,
            pixel_size_um=plate.pixel_size_um,
        )
        for batch in parallel_map(cut, groups, jobs=jobs, description=f"Cropping {plate.name}"):
            writer.append(batch)
        writer.close()
        footer = read_table_metadata(cells)["cellpipe"]
        write_table(table, temporary / CELLS_FILE, metadata={"cellpipe": footer})


def _cut_site(
    group: tuple[int, np.ndarray], *, sites: Path, illumination: Path, size: int
) -> np.ndarray:
    row, corners = group
    image = CorrectedPlate.open(sites, illumination).read(row)
    image = np.clip(np.rint(image), 0, np.iinfo(np.uint16).max).astype(np.uint16)
    padded = np.pad(image, ((0, 0), (size, size), (size, size)), mode="symmetric")
    crops = [padded[:, y : y + size, x : x + size] for y, x in corners + size]
    return np.stack(crops)  # (cell, channel, y, x)


def _outside_fraction(
    corners: np.ndarray, table: pd.DataFrame, sites: pd.DataFrame, size: int
) -> np.ndarray:
    sides = sites[["height", "width"]].to_numpy(np.int64)[table["site_row"].to_numpy()]
    inside = np.clip(np.minimum(corners + size, sides) - np.maximum(corners, 0), 0, size)
    return (1 - inside.prod(axis=1) / size**2).astype(np.float32)
