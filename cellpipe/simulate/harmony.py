"""Harmony's export of an Opera Phenix: one TIFF an image, and ``Index.idx.xml`` beside them."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import tifffile

from cellpipe import schema
from cellpipe.simulate.microscope import CHANNELS

PIXEL_SIZE_UM = 0.8969641214351426
"""Size of a pixel in the sample: JUMP's 20x lens at binning 3 (JUMP itself: 2, 0.598 µm)."""

BINNING = 3

CAMERA_PITCH_UM = 6.45
"""What the TIFF resolution tag says: the camera's pitch, as in the real files.

It is not the size of a pixel in the sample; readers must take that from the index.
"""

NAMESPACE = "http://www.perkinelmer.com/PEHH/HarmonyV5"

START = datetime(2026, 1, 5, 9, 0, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Filter:
    """How Harmony describes a channel."""

    name: str
    excitation_nm: int
    emission_nm: int
    position_z_m: float
    exposure_s: float


FILTERS = {
    "Mito": Filter("Alexa 647", 640, 706, -5e-06, 0.4),
    "AGP": Filter("Alexa 568", 561, 599, -3e-06, 0.2),
    "RNA": Filter("488 long", 488, 599, -3e-06, 0.2),
    "ER": Filter("Alexa 488", 488, 522, -4e-06, 0.2),
    "DNA": Filter("HOECHST 33342", 405, 456, -4e-06, 0.02),
    "HighZBF": Filter("Brightfield High", 740, 0, 5e-06, 0.01),
    "LowZBF": Filter("Brightfield Low", 740, 0, -5e-06, 0.01),
    "Brightfield": Filter("Brightfield", 740, 0, 0.0, 0.01),
}


@dataclass(frozen=True)
class Site:
    """Where an image was taken; row and column are zero-based, the field counts from 1."""

    row: int
    column: int
    field: int
    position_m: tuple[float, float]
    """(x, y) of the field's centre from the centre of the well, y upwards."""

    @property
    def well(self) -> str:
        """Name of the well, ``A01``."""
        return schema.well_name(self.row, self.column)


def plate_start(number: int) -> datetime:
    """When the imaging of plate `number` (from 0) began: one plate a day."""
    return START + timedelta(days=number)


def time_of(site: Site, channel: str, number: int) -> datetime:
    """When an image was taken."""
    minutes = site.row * 24 + site.column
    seconds = 4 * site.field + 0.4 * CHANNELS.index(channel)
    return plate_start(number) + timedelta(minutes=minutes, seconds=seconds)


def sites_of(wells: list[tuple[int, int]], sites_per_well: int, size: int) -> list[Site]:
    """All sites of a plate: fields lie on a square grid around the centre of the well."""
    side = int(np.ceil(np.sqrt(sites_per_well)))
    step = size * PIXEL_SIZE_UM * 1e-6
    centre = (side - 1) / 2
    sites = []
    for row, column in wells:
        for index in range(sites_per_well):
            y, x = divmod(index, side)
            position = (round((x - centre) * step, 9), round((centre - y) * step, 9))
            sites.append(Site(row, column, index + 1, position))
    return sites


def image_name(site: Site, channel: str) -> str:
    """Harmony's file name: row, column, field, plane, channel, and three constants."""
    number = CHANNELS.index(channel) + 1
    place = f"r{site.row + 1:02d}c{site.column + 1:02d}f{site.field:02d}p01"
    return f"{place}-ch{number}sk1fk1fl1.tiff"


def write_images(folder: Path, site: Site, images: np.ndarray) -> None:
    """Write a site's (8, y, x) uint16 images, one LZW-compressed TIFF a channel."""
    for channel, image in zip(CHANNELS, images, strict=True):
        tifffile.imwrite(
            folder / image_name(site, channel),
            image,
            compression="lzw",
            predictor=False,
            resolution=(1e4 / CAMERA_PITCH_UM, 1e4 / CAMERA_PITCH_UM),
            resolutionunit="CENTIMETER",
            software="cellpipe simulate",
            metadata=None,
        )


def write_index(path: Path, plate: str, number: int, sites: list[Site], size: int) -> None:
    """Write ``Index.idx.xml``: Harmony V5, one ``Image`` element for each file."""
    root = ElementTree.Element("EvaluationInputData", {"Version": "1", "xmlns": NAMESPACE})
    _add(root, User="cellpipe", InstrumentType="Phenix")
    plates = ElementTree.SubElement(ElementTree.SubElement(root, "Plates"), "Plate")
    _add(
        plates,
        PlateID=plate,
        MeasurementID=uuid.uuid5(uuid.NAMESPACE_URL, plate),
        MeasurementStartTime=plate_start(number).isoformat(),
        Name=plate,
        PlateTypeName="384 PerkinElmer CellCarrier Ultra",
        PlateRows=16,
        PlateColumns=24,
    )
    wells = ElementTree.SubElement(root, "Wells")
    images = ElementTree.SubElement(root, "Images")
    open_wells: dict[tuple[int, int], ElementTree.Element] = {}
    for site in sites:
        row, column = site.row + 1, site.column + 1
        place = f"{row:02d}{column:02d}"
        if (row, column) not in open_wells:
            ElementTree.SubElement(plates, "Well", id=place)
            well = ElementTree.SubElement(wells, "Well")
            _add(well, id=place, Row=row, Col=column)
            open_wells[row, column] = well
        for index, channel in enumerate(CHANNELS, 1):
            identifier = f"{place}K1F{site.field}P1R{index}"
            ElementTree.SubElement(open_wells[row, column], "Image", id=identifier)
            image = ElementTree.SubElement(images, "Image", Version="1")
            _add(image, id=identifier, State="Ok", URL=image_name(site, channel))
            _describe(image, site, channel, number, size)
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _describe(image: ElementTree.Element, site: Site, channel: str, number: int, size: int) -> None:
    used = FILTERS[channel]
    fluorescent = used.emission_nm > 0
    _add(
        image,
        Row=site.row + 1,
        Col=site.column + 1,
        FieldID=site.field,
        PlaneID=1,
        TimepointID=0,
        ChannelID=CHANNELS.index(channel) + 1,
        FlimID=1,
        ChannelName=used.name,
        ImageType="Signal",
        AcquisitionType="NonConfocal",
        IlluminationType="Epifluorescence" if fluorescent else "Transmitted",
        ChannelType="Fluorescence" if fluorescent else "Brightfield",
    )
    resolution = repr(PIXEL_SIZE_UM * 1e-6)
    _add(image, unit="m", ImageResolutionX=resolution, ImageResolutionY=resolution)
    _add(
        image,
        ImageSizeX=size,
        ImageSizeY=size,
        BinningX=BINNING,
        BinningY=BINNING,
        MaxIntensity=65535,
        CameraType="AndorZylaCam",
    )
    x, y = site.position_m
    _add(image, unit="m", PositionX=x, PositionY=y, PositionZ=used.position_z_m)
    _add(image, unit="m", AbsPositionZ=round(0.1346 + used.position_z_m, 9))
    _add(image, unit="s", MeasurementTimeOffset=0)
    _add(image, AbsTime=time_of(site, channel, number).isoformat())
    _add(image, unit="nm", MainExcitationWavelength=used.excitation_nm)
    _add(image, unit="nm", MainEmissionWavelength=used.emission_nm)
    _add(image, unit="", ObjectiveMagnification=20, ObjectiveNA=1)
    _add(image, unit="s", ExposureTime=used.exposure_s)


def _add(parent: ElementTree.Element, *, unit: str | None = None, **values: object) -> None:
    for name, value in values.items():
        attributes = {} if unit is None else {"Unit": unit}
        ElementTree.SubElement(parent, name, attributes).text = str(value)
