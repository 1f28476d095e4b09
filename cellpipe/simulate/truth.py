"""The truth behind a simulated data set, as tables and arrays that a test can compare with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from cellpipe import schema
from cellpipe.files import write_table
from cellpipe.simulate.cells import Cell
from cellpipe.simulate.compounds import COMPOUNDS, DMSO, Compound
from cellpipe.simulate.harmony import Site
from cellpipe.simulate.microscope import CAMERA_OFFSET, CHANNELS, Plate

README = """\
A simulated Cell Painting data set, written by `cellpipe simulate`.

images/<batch>/images/<plate>__<time>-Measurement1/Images/
    r01c01f01p01-ch1sk1fk1fl1.tiff   uint16 counts, LZW; row, column, field, channel
    Index.idx.xml                    Harmony V5: pixel size, channel names, positions
    The TIFF resolution tag is the camera's pitch, as in real files, and not the pixel size.
workspace/load_data_csv/<batch>/<plate>/load_data.csv
workspace/metadata/platemaps/<batch>/barcode_platemap.csv, platemap/*.tsv
workspace/metadata/external_metadata/*.tsv
    DMSO has an empty broad_sample in both tables, as in JUMP-Target-1.
truth/
    cells.parquet          one row for each nucleus in a field: place and area in px, the
                           compound's phenotype, the cell's own effect (0 for non-responders)
    debris.parquet         specks that are not cells
    perturbations.csv      one row for each compound: phenotype, strength, channels it changes
    nuclei/<plate>.npz     label image (y, x) uint16 for each site, key <well>_<site>;
                           label = Metadata_ObjectNumber
    illumination/<plate>.npz
                           flat-field (y, x) float32, mean 1, for each channel, and
                           camera_offset in counts: image = offset + flat-field * light + noise
Channels: ch1 Mito, ch2 AGP, ch3 RNA, ch4 ER, ch5 DNA, ch6 HighZBF, ch7 LowZBF, ch8 Brightfield.
"""


@dataclass(frozen=True)
class SiteTruth:
    """What is known of one site."""

    site: Site
    labels: np.ndarray
    """(y, x) uint16, 0 is background."""
    cells: pd.DataFrame
    debris: pd.DataFrame


def describe_site(
    plate: str,
    site: Site,
    compound: Compound,
    cells: list[Cell],
    labels: np.ndarray,
    debris: pd.DataFrame,
) -> SiteTruth:
    """Renumber the nuclei in the field 1, 2, … and measure what is seen of each."""
    areas = np.bincount(labels.ravel(), minlength=len(cells) + 1)
    seen = np.flatnonzero(areas[1:]) + 1
    renumber = np.zeros(len(cells) + 1, np.uint16)
    renumber[seen] = np.arange(1, len(seen) + 1)
    labels = renumber[labels]
    numbers = np.arange(1, len(seen) + 1)
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, numbers)).reshape(-1, 2)
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    shown = [cells[label - 1] for label in seen]
    stretch = np.sqrt([cell.nucleus_elongation for cell in shown])
    radius = np.array([cell.nucleus_radius for cell in shown])
    table = pd.DataFrame(
        {
            schema.PLATE: plate,
            schema.WELL: site.well,
            schema.SITE: np.int32(site.field),
            schema.OBJECT: numbers.astype(np.int32),
            "centroid_y": centres[:, 0],
            "centroid_x": centres[:, 1],
            "area_px": areas[seen],
            "edge": np.isin(numbers, border),
            "nucleus_major_px": 2 * radius * stretch,
            "nucleus_minor_px": 2 * radius / stretch,
            schema.PERT_NAME: compound.name,
            "phenotype": compound.phenotype,
            "strength": compound.strength,
            "effect": [float(cell.effect) for cell in shown],
        }
    )
    key = {schema.PLATE: plate, schema.WELL: site.well, schema.SITE: np.int32(site.field)}
    return SiteTruth(site, labels, table, pd.DataFrame(debris.assign(**key)))


def write_truth(folder: Path, truths: dict[str, list[SiteTruth]], plates: list[Plate]) -> None:
    """Write the truth of all plates; `truths` holds each plate's sites by the plate's name."""
    sites = [truth for of_plate in truths.values() for truth in of_plate]
    write_table(pd.concat([t.cells for t in sites], ignore_index=True), folder / "cells.parquet")
    write_table(pd.concat([t.debris for t in sites], ignore_index=True), folder / "debris.parquet")
    _perturbations().to_csv(folder / "perturbations.csv", index=False)
    for part in ("nuclei", "illumination"):
        (folder / part).mkdir()
    for plate in plates:
        labels: dict[str, Any] = {
            f"{t.site.well}_{t.site.field}": t.labels for t in truths[plate.name]
        }
        np.savez_compressed(folder / "nuclei" / f"{plate.name}.npz", **labels)
        fields: dict[str, Any] = dict(zip(CHANNELS, plate.flatfield, strict=True))
        fields["camera_offset"] = np.array(CAMERA_OFFSET, np.float32)
        np.savez_compressed(folder / "illumination" / f"{plate.name}.npz", **fields)


def _perturbations() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "perturbation": compound.name,
            "broad_sample": compound.broad_sample,
            "JCP2022": compound.jcp2022,
            "target": compound.target,
            "phenotype": compound.phenotype,
            "strength": compound.strength,
            "channels": "|".join(compound.channels),
        }
        for compound in (DMSO, *COMPOUNDS)
    )
