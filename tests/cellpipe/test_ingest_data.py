"""Ingest of real plates, from the files of several microscopes and laboratories."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from cellpipe import schema
from cellpipe.ingest import ingest
from cellpipe.plate import Plate
from cellpipe.platemap import PlatemapColumns

DATA = Path(__file__).parents[3] / "shared" / "data"
JUMP_CHANNELS = ("Mito", "AGP", "RNA", "ER", "DNA", "HighZBF", "LowZBF", "Brightfield")

pytestmark = pytest.mark.data


def real(path: str) -> Path:
    if not (DATA / path).exists():
        pytest.skip(f"{DATA / path} is not here")
    return DATA / path


def run(tmp_path: Path, source: Path, **options) -> tuple[Plate, pd.DataFrame]:
    sites, quarantine = tmp_path / "P.sites.parquet", tmp_path / "P.quarantine.csv"
    ingest(source, store=tmp_path / "P.zarr", sites=sites, quarantine=quarantine, **options)
    return Plate.open(sites), pd.read_csv(quarantine, keep_default_na=False)


def test_phenix_site_of_six_channels(tmp_path):
    folder = real("hcs_harmony_phenix_BR00121482/Version1/images")
    plate, quarantine = run(tmp_path, folder)
    assert quarantine.empty
    assert plate.channels == ("Mito", "AGP", "RNA", "ER", "DNA", "Brightfield")
    assert plate.pixel_size_um == pytest.approx(0.598, abs=1e-4)
    image = plate.read(0)
    for position in range(6):
        expected = tifffile.imread(folder / f"r01c01f01p01-ch{position + 1}sk1fk1fl1.tiff")
        np.testing.assert_array_equal(image[position], expected)


def test_jump_site_with_three_of_eight_channels(tmp_path):
    maps = real("jump_target_platemaps/cpg0000_reference_plate_data")
    plate, quarantine = run(
        tmp_path,
        real("jump_BR00117006_A01_site1/JUMP_plate_BR00117006/images/orig"),
        plate="BR00117006",
        batch="2020_11_04_CPJUMP1",
        source_name="source_4",
        channels={str(n + 1): name for n, name in enumerate(JUMP_CHANNELS)},
        pixel_size_um=0.598,
        platemap=maps / "barcode_platemap.csv",
        metadata=maps / "JUMP-Target-1_orf_metadata.tsv",
    )
    assert quarantine.empty
    assert plate.channels == ("AGP", "RNA", "DNA")
    assert plate.missing_channels == ("Mito", "ER", "HighZBF", "LowZBF", "Brightfield")
    site = plate.sites.iloc[0]
    assert site[schema.PERT_NAME] == "KCNN1"
    assert 0 < site["QC_DNA_saturated"] < 1e-3
    assert site["QC_AGP_saturated"] == 0


def test_load_data_of_which_one_site_is_here(tmp_path):
    folder = real("pediatric_BR00143976_C03_site3_6ch")
    plate, quarantine = run(
        tmp_path,
        folder / "loaddata" / "BR00143976_concatenated_with_illum.EXCERPT.csv",
        image_root=folder / "pediatric_cancer_atlas_profiling" / "images" / "orig",
        platemap=folder / "metadata" / "platemaps" / "Barcode_platemap_pilot_data.csv",
        platemap_columns=PlatemapColumns(pert_name="cell_line"),
    )
    assert list(plate.sites["image"]) == ["C/03/3"]
    assert plate.sites[schema.PERT_NAME].tolist() == ["DAOY"]
    assert plate.channels == ("ER", "RNA", "AGP", "Mito", "Brightfield", "DNA")
    assert plate.pixel_size_um is None
    dna = next(folder.rglob("r03c03f03p01-ch5sk1fk1fl1.tiff"))
    np.testing.assert_array_equal(plate.read(0, ["DNA"])[0], tifffile.imread(dna))
    assert len(quarantine) == 20 * 6
    assert set(quarantine["reason"]) == {"the file does not exist"}


def test_translocation_plate(tmp_path):
    folder = real("sbs_translocation_dose_plate/ExampleSBSImages")
    plate, quarantine = run(
        tmp_path,
        folder,
        channels={"1": "GFP", "2": "DNA"},
        file_pattern=r"Channel(?P<channel>[12])-\d+-(?P<row>[A-H])-(?P<column>\d+)\.tif",
        platemap=folder / "1049_Metadata.csv",
        platemap_columns=PlatemapColumns(
            pert_name="SBS_Doses",
            pert_type="SBS_Controls",
            types={"-1": "negcon", "1": "poscon", "0": "trt"},
        ),
    )
    assert quarantine.empty
    assert plate.channels == ("GFP", "DNA")
    assert len(plate.sites) == 32
    row = plate.sites.index[plate.sites[schema.WELL] == "B07"][0]
    expected = tifffile.imread(folder / "Channel1-19-B-07.tif")
    assert expected.dtype == np.uint8
    np.testing.assert_array_equal(plate.read(row, ["GFP"])[0], expected)
    assert set(plate.sites[schema.PERT_TYPE]) == {"negcon", "trt", "poscon"}


def test_fields_that_are_not_square(tmp_path):
    folder = real("nf1_cellpainting_plate2")
    plate, quarantine = run(
        tmp_path,
        folder / "NF1_cellpainting_data_shrunken" / "Plate_2_images",
        plate="Plate_2_nf1_analysis",
        file_pattern=r"(?P<well>[A-H]\d+)_01_\d_(?P<site>\d+)_(?P<channel>DAPI|GFP|RFP)_001\.tif",
        channels={"DAPI": "DNA", "GFP": "ER", "RFP": "Actin"},
        platemap=folder / "metadata" / "barcode_platemap.csv",
        platemap_columns=PlatemapColumns(
            pert_name="genotype", pert_type="genotype", types={"WT": "negcon", "Null": "trt"}
        ),
    )
    assert quarantine.empty
    sites = plate.sites[[schema.WELL, schema.SITE, schema.PERT_TYPE]].to_numpy().tolist()
    assert sites == [["B07", 3, "trt"], ["D06", 2, "negcon"], ["D07", 1, "trt"]]
    assert plate.read(0).shape == (3, 904, 1224)
    assert plate.sites["QC_DNA_saturated"].between(0, 0.01).all()
