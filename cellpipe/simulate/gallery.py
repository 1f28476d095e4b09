"""Tables around the images, as the Cell Painting Gallery has them: load_data and plate maps."""

from pathlib import Path

import pandas as pd

from cellpipe import schema
from cellpipe.simulate.compounds import COMPOUNDS, Compound
from cellpipe.simulate.harmony import (
    BINNING,
    FILTERS,
    PIXEL_SIZE_UM,
    Site,
    image_name,
    plate_start,
    time_of,
    write_index,
)
from cellpipe.simulate.microscope import CHANNELS

SOURCE = "source_sim"
BATCH = "2026_01_05_SimBatch1"
PLATEMAP = "SIM-Target-1_compound_platemap"


def plate_folder(plate: str, number: int) -> str:
    """Full name of a plate's measurement, as the gallery spells it."""
    return f"{plate}__{plate_start(number):%Y-%m-%dT%H_%M_%S}-Measurement1"


def write_plate(
    root: Path, final: Path, plate: str, number: int, sites: list[Site], size: int
) -> Path:
    """Write a plate's ``Index.idx.xml`` and ``load_data.csv``; return its folder of images.

    `root` is written now and will be called `final`, which is what load_data's paths start with.
    """
    inside = Path("images", BATCH, "images", plate_folder(plate, number), "Images")
    (root / inside).mkdir(parents=True)
    write_index(root / inside / "Index.idx.xml", plate, number, sites, size)
    tables = root / "workspace" / "load_data_csv" / BATCH / plate
    tables.mkdir(parents=True)
    table = load_data(plate, sites, str(final / inside), number, size)
    table.to_csv(tables / "load_data.csv", index=False)
    return root / inside


def load_data(plate: str, sites: list[Site], folder: str, number: int, size: int) -> pd.DataFrame:
    """Return the table that JUMP calls ``load_data.csv``: one row for each site.

    As in the published tables, the ``Metadata_`` columns of the image are those of its DNA channel.
    """
    dna = FILTERS["DNA"]
    rows = []
    for site in sites:
        files = {f"FileName_Orig{channel}": image_name(site, channel) for channel in CHANNELS}
        folders = {f"PathName_Orig{channel}": folder for channel in CHANNELS}
        rows.append(
            {
                **files,
                **folders,
                schema.SOURCE: SOURCE,
                schema.BATCH: BATCH,
                schema.PLATE: plate,
                schema.WELL: site.well,
                schema.SITE: site.field,
                "Metadata_AbsTime": time_of(site, "DNA", number).isoformat(),
                "Metadata_BinningX": BINNING,
                "Metadata_BinningY": BINNING,
                "Metadata_ChannelID": CHANNELS.index("DNA") + 1,
                "Metadata_ChannelName": dna.name,
                "Metadata_Col": site.column + 1,
                "Metadata_ExposureTime": dna.exposure_s,
                "Metadata_FieldID": site.field,
                "Metadata_ImageResolutionX": PIXEL_SIZE_UM * 1e-6,
                "Metadata_ImageResolutionY": PIXEL_SIZE_UM * 1e-6,
                "Metadata_ImageSizeX": size,
                "Metadata_ImageSizeY": size,
                "Metadata_MaxIntensity": 65535,
                "Metadata_PlaneID": 1,
                "Metadata_PositionX": site.position_m[0],
                "Metadata_PositionY": site.position_m[1],
                "Metadata_Row": site.row + 1,
            }
        )
    return pd.DataFrame(rows)


def write_maps(folder: Path, layout: dict[tuple[int, int], Compound], plates: list[str]) -> None:
    """Write plate maps and compound metadata under a workspace's ``metadata`` folder.

    DMSO has an empty ``broad_sample`` in both tables, as in JUMP-Target-1, whose columns
    (version 3252e03, the last with ``target`` and without NA) these are, with JCP2022 added.
    """
    batch = folder / "platemaps" / BATCH
    (batch / "platemap").mkdir(parents=True)
    barcodes = pd.DataFrame({"Assay_Plate_Barcode": plates, "Plate_Map_Name": PLATEMAP})
    barcodes.to_csv(batch / "barcode_platemap.csv", index=False)

    wells = pd.DataFrame(
        {
            "well_position": schema.well_name(*well),
            "broad_sample": compound.broad_sample,
            "solvent": "DMSO",
        }
        for well, compound in layout.items()
    )
    wells.to_csv(batch / "platemap" / f"{PLATEMAP}.tsv", sep="\t", index=False)

    external = folder / "external_metadata"
    external.mkdir()
    table = pd.DataFrame(
        [
            {
                "broad_sample": compound.broad_sample,
                "InChIKey": "",
                "pert_iname": compound.name,
                "pubchem_cid": "",
                "target": compound.target,
                "pert_type": "trt",
                "control_type": "",
                "smiles": "",
                "JCP2022": compound.jcp2022,
            }
            for compound in COMPOUNDS
        ]
        + [
            {
                "broad_sample": "",
                "InChIKey": "IAZDPXIOMUYVGZ-UHFFFAOYSA-N",
                "pert_iname": "DMSO",
                "pubchem_cid": "679",
                "target": "",
                "pert_type": "control",
                "control_type": "negcon",
                "smiles": "CS(=O)C",
                "JCP2022": schema.DMSO_JCP2022,
            }
        ]
    )
    table.to_csv(external / "SIM-Target-1_compound_metadata.tsv", sep="\t", index=False)
