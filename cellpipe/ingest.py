"""One plate from any layout on disk: pixels in OME-Zarr, a site table, a quarantine table.

The site table (Parquet) has one row per usable field of view: ``Metadata_Source``, ``_Batch``,
``_Plate``, ``_Well`` (zero-padded), ``_Site`` (int32); ``store``, the plate's path, relative to the
table's folder or absolute, and ``image``, the field's path inside it; ``height`` and ``width`` in
pixels; per channel ``QC_<channel>_mean``, ``_saturated``, ``_focus`` as `cellpipe.quality` defines
them; and with a platemap the columns of `cellpipe.platemap`. Its footer ``cellpipe`` is JSON with
``channels``, ``pixel_size_um``, ``layout``, ``source``, ``version``, ``missing_channels``.

The quarantine table (CSV) has one row per bad image and its reason. A field of view with any bad
image is not in the site table.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from cellpipe import schema
from cellpipe.errors import CellpipeValueError
from cellpipe.field_list import (
    existing_channels,
    list_fields,
    list_zarr_fields,
    plate_order,
    plate_wells,
)
from cellpipe.fields import RECORD, FieldReport, check_zarr_field, write_field
from cellpipe.files import write_table
from cellpipe.ngff import begin_plate, write_plate_metadata
from cellpipe.ngff_field import read_attributes
from cellpipe.parallel import parallel_map
from cellpipe.platemap import PlatemapColumns, read_platemap
from cellpipe.quality import METRICS
from cellpipe.quarantine import set_apart
from cellpipe.readers import PlateFiles, ZarrPlate, read_plate
from cellpipe.wells import inside, plate_format
from fastvim.files import remove

log = logging.getLogger(__name__)

TABLE_VERSION = 1


def ingest(
    source: Path,
    *,
    store: Path,
    sites: Path,
    quarantine: Path,
    layout: str = "auto",
    plate: str | None = None,
    batch: str = "",
    source_name: str = "",
    channels: Mapping[str, str] | None = None,
    pixel_size_um: float | None = None,
    file_pattern: str | None = None,
    image_root: Path | None = None,
    platemap: Path | None = None,
    metadata: Path | None = None,
    platemap_columns: PlatemapColumns | None = None,
    jobs: int = 1,
) -> None:
    """Bring one plate into the project's form.

    Fields of view are written one by one, each whole or not at all; run again after an
    interruption, those written from unchanged files are kept. The site table is written last and
    marks the stage as complete.

    Parameters
    ----------
    source
        The plate: a Harmony folder, a load_data table, a folder of TIFFs, or an OME-Zarr plate.
    store
        The OME-Zarr 0.5 plate to write. A source that is OME-Zarr is used in place and never
        written to; then nothing is written here.
    sites, quarantine
        The tables to write, Parquet and CSV.
    layout
        ``harmony``, ``load_data``, ``omezarr``, ``pattern``, or ``auto`` to find out.
    plate
        Name of the plate; by default the source's.
    batch, source_name
        JUMP's ``Metadata_Batch`` and ``Metadata_Source``.
    channels
        Channel names by the source's names or numbers; the readers say more.
    pixel_size_um
        Micrometres per pixel, where the source does not say.
    file_pattern
        Regular expression of file names for layout ``pattern``.
    image_root
        Where the images of a load_data table lie, if not where it says.
    platemap, metadata, platemap_columns
        What is in the wells, see `cellpipe.platemap.read_platemap`.
    jobs
        Processes that read and write fields of view.

    Raises
    ------
    CellpipeValueError
        If an option is wrong, or `store` holds something that is not an ingested plate.
    CellpipeDataError
        If the source or a table is wrong as a whole, no field of view is usable (the quarantine
        table says why), or a field cannot be written.
    """
    found = read_plate(
        source,
        layout=layout,
        plate=plate,
        channels=channels,
        pixel_size_um=pixel_size_um,
        file_pattern=file_pattern,
        image_root=image_root,
    )
    wells = plate_wells(found)
    shape = found.shape or plate_format(wells)
    labels = None
    if platemap is not None:
        labels = read_platemap(
            platemap,
            plate=found.name,
            wells={schema.well_name(*well) for well in wells if inside(well, shape)},
            shape=found.shape,
            metadata=metadata,
            columns=platemap_columns,
        )
    elif metadata is not None or platemap_columns is not None:
        raise CellpipeValueError("metadata and platemap columns need a platemap: give `platemap`")
    remove(sites)
    remove(quarantine)
    missing: tuple[str, ...] = ()
    if isinstance(found, ZarrPlate):
        kept = found.channels
        usable = set_apart(found.name, _check(found, shape, jobs), quarantine)
        location = str(found.store.resolve())
    else:
        kept, missing = existing_channels(found)
        _claim(store, found.name)
        usable = set_apart(found.name, _write(found, kept, shape, store, jobs), quarantine)
        images = [report.image for report in usable]
        _remove_others(store, set(images))
        write_plate_metadata(store, name=found.name, shape=shape, images=images)
        location = os.path.relpath(store, sites.parent)
    keys = {schema.SOURCE: source_name, schema.BATCH: batch, schema.PLATE: found.name}
    table = _site_table(usable, keys, kept, location)
    if labels is not None:
        at = table.columns.get_loc("store")
        for offset, column in enumerate(labels.columns):
            table.insert(at + offset, column, table[schema.WELL].map(labels[column]))
    footer = {
        "channels": list(kept),
        "pixel_size_um": found.pixel_size_um,
        "layout": found.layout,
        "source": str(source),
        "version": TABLE_VERSION,
        "missing_channels": list(missing),
    }
    write_table(table, sites, metadata={"cellpipe": json.dumps(footer)})


def _check(plate: ZarrPlate, shape: tuple[int, int], jobs: int) -> list[FieldReport]:
    fields, reports = list_zarr_fields(plate, shape)
    check = partial(check_zarr_field, plate=plate)
    reports += parallel_map(check, fields, jobs=jobs, description=f"Checking {plate.name}")
    return sorted(reports, key=plate_order)


def _write(
    plate: PlateFiles, channels: Sequence[str], shape: tuple[int, int], store: Path, jobs: int
) -> list[FieldReport]:
    fields, reports = list_fields(plate, channels, shape)
    write = partial(write_field, store=store, pixel_size_um=plate.pixel_size_um)
    reports += parallel_map(write, fields, jobs=jobs, description=f"Ingesting {plate.name}")
    return sorted(reports, key=plate_order)


def _claim(store: Path, name: str) -> None:
    """Make `store` ready for writing, but never a folder that holds something else."""
    if store.exists() and RECORD not in (read_attributes(store) or {}) and any(store.iterdir()):
        raise CellpipeValueError(
            f"store {store} exists and is not a plate that was ingested here. Remove it or give "
            "another path"
        )
    begin_plate(store, {RECORD: {"plate": name}})


def _remove_others(store: Path, keep: set[str]) -> None:
    """Remove what earlier or interrupted runs left in the plate."""
    for path in store.glob("*/*/*"):
        if path.is_dir() and path.relative_to(store).as_posix() not in keep:
            remove(path)
    wells = {image.rpartition("/")[0] for image in keep}
    for path in store.glob("*/*"):
        if path.is_dir() and path.relative_to(store).as_posix() not in wells:
            remove(path)


def _site_table(
    reports: Sequence[FieldReport], keys: Mapping[str, str], channels: Sequence[str], location: str
) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for report in reports:
        height, width = next(iter(report.shapes.values()))
        quality = {
            f"QC_{channel}_{metric}": report.quality[channel][metric]
            for channel in channels
            for metric in METRICS
        }
        field = {schema.WELL: report.well, schema.SITE: report.site}
        place = {"store": location, "image": report.image, "height": height, "width": width}
        rows.append({**keys, **field, **place, **quality})
    return pd.DataFrame(rows).astype({schema.SITE: "int32"})
