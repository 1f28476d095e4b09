import re
from pathlib import Path

import pytest

from cellpipe import schema
from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.platemap import EMPTY_JCP2022, PlatemapColumns, read_platemap

DATA = Path(__file__).parents[3] / "shared" / "data"
JUMP = DATA / "jump_target_platemaps"
CPG0000 = JUMP / "cpg0000_reference_plate_data"
ALL_384 = [schema.well_name(row, column) for row in range(16) for column in range(24)]
LABELS = [
    *(schema.BROAD_SAMPLE, schema.PERT_NAME, schema.PERT_TYPE),
    *(schema.JCP2022, schema.TARGET),
]

COMPOUND_MAP = """well_position\tbroad_sample\tsolvent
A1\tBRD-1\tDMSO
A02\t\tDMSO
B01\tBRD-2\tDMSO
"""
COMPOUND_METADATA = """broad_sample\tpert_iname\ttarget\tpert_type\tcontrol_type
BRD-1\taspirin\tPTGS2\ttrt\tNA
BRD-2\tFK-866\tNAMPT\tcontrol\tposcon_diverse
NA\tDMSO\tNA\tcontrol\tnegcon
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def labels(tmp_path, text=COMPOUND_MAP, wells=("A01", "A02", "B01"), name="map.tsv", **options):
    path = write(tmp_path / name, text)
    return read_platemap(path, plate="P1", wells=wells, **options)


def rows(table):
    return {well: list(row) for well, row in table[LABELS].iterrows()}


DMSO_ROW = ["", "DMSO", "negcon", schema.DMSO_JCP2022, ""]


def test_compounds_with_metadata(tmp_path, caplog):
    caplog.set_level("INFO")
    metadata = write(tmp_path / "metadata.tsv", COMPOUND_METADATA)
    table = labels(tmp_path, metadata=metadata)
    assert rows(table) == {
        "A01": ["BRD-1", "aspirin", "trt", "", "PTGS2"],
        "A02": DMSO_ROW,
        "B01": ["BRD-2", "FK-866", "poscon", "", "NAMPT"],
    }
    assert list(table.columns) == [*LABELS, "Metadata_solvent"]
    assert "perturbation from column pert_iname, target from target" in caplog.text


def test_compounds_without_metadata(tmp_path):
    assert rows(labels(tmp_path)) == {
        "A01": ["BRD-1", "BRD-1", "trt", "", ""],
        "A02": DMSO_ROW,
        "B01": ["BRD-2", "BRD-2", "trt", "", ""],
    }


def test_target_list_is_taken_and_said(tmp_path, caplog):
    caplog.set_level("INFO")
    text = COMPOUND_METADATA.replace("\ttarget\t", "\ttarget_list\t")
    table = labels(tmp_path, metadata=write(tmp_path / "metadata.tsv", text))
    assert table[schema.TARGET]["A01"] == "PTGS2"
    assert "target from target_list" in caplog.text


def test_genes(tmp_path):
    platemap = "well_position\tbroad_sample\nA01\tG1\nA02\tG2\nB01\t\n"
    metadata = write(
        tmp_path / "metadata.tsv",
        "broad_sample\tgene\tpert_type\tcontrol_type\n"
        "G1\tHIF1A\ttrt\t\nG2\t\tcontrol\tnegcon\n\t\t\t\n",
    )
    assert rows(labels(tmp_path, platemap, metadata=metadata)) == {
        "A01": ["G1", "HIF1A", "trt", "", "HIF1A"],
        "A02": ["G2", "G2", "negcon", "", ""],
        "B01": ["", "", "empty", EMPTY_JCP2022, ""],
    }


def test_jump_wells_of_several_plates(tmp_path):
    text = "Metadata_Source,Metadata_Plate,Metadata_Well,Metadata_JCP2022\n"
    text += "s,P0,A01,JCP2022_1\ns,P1,A01,JCP2022_2\n"
    text += f"s,P1,A02,{schema.DMSO_JCP2022}\ns,P1,B01,{EMPTY_JCP2022}\n"
    table = labels(tmp_path, text, name="well.csv")
    assert list(table.columns) == LABELS
    assert rows(table) == {
        "A01": ["", "JCP2022_2", "trt", "JCP2022_2", ""],
        "A02": DMSO_ROW,
        "B01": ["", EMPTY_JCP2022, "empty", EMPTY_JCP2022, ""],
    }
    with pytest.raises(CellpipeDataError, match=r"no row of plate 'P1', only P0"):
        labels(tmp_path, text.replace("P1", "P0"), name="well.csv")


def test_generic_table(tmp_path):
    text = "Column,Row,Dose,Control\n01,A,0,-1\n02,A,5,0\n01,B,10,1\n"
    table = labels(
        tmp_path,
        text,
        name="doses.csv",
        columns=PlatemapColumns(
            pert_name="Metadata_Dose",
            pert_type="Control",
            target="Control",
            types={-1: "negcon", "0": "trt", "1": "poscon"},
        ),
    )
    assert rows(table) == {
        "A01": ["", "0", "negcon", "", "-1"],
        "A02": ["", "5", "trt", "", "0"],
        "B01": ["", "10", "poscon", "", "1"],
    }
    assert table["Metadata_Dose"]["B01"] == "10"


def test_named_well_column(tmp_path):
    text = "where,pert_name\nA1,x\nA2,\nB1,DMSO\n"
    table = labels(tmp_path, text, name="map.csv", columns=PlatemapColumns(well="where"))
    assert list(table[schema.PERT_TYPE]) == ["trt", "empty", "negcon"]


def test_barcodes_choose_the_platemap(tmp_path):
    text = "Assay_Plate_Barcode,Plate_Map_Name\nP0,none\nP1,target_map\n\n"
    barcodes = write(tmp_path / "barcode_platemap.csv", text)
    write(tmp_path / "platemap" / "target_map.txt", COMPOUND_MAP)
    table = read_platemap(barcodes, plate="P1", wells=["A01"])
    assert table[schema.BROAD_SAMPLE]["A01"] == "BRD-1"
    with pytest.raises(CellpipeDataError, match="no platemap for plate 'P2'; it knows P0, P1"):
        read_platemap(barcodes, plate="P2", wells=["A01"])
    with pytest.raises(CellpipeDataError, match="names platemap 'none' for plate P0, but no file"):
        read_platemap(barcodes, plate="P0", wells=["A01"])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("position\tbroad_sample\nA01\tx\n", {}, r"no column of wells: expected \('well_position'"),
        ("well\tdose\nA01\t1\n", {"wells": ["A01"]}, r"expected one of the columns \('pert_iname'"),
        (COMPOUND_MAP + "A01\tBRD-9\tDMSO\n", {}, "wells A01 are there twice"),
        (COMPOUND_MAP + "Z99\tBRD-9\tDMSO\n", {}, "'Z99' is not a well"),
        (COMPOUND_MAP + "P24\tx\tDMSO\n", {"shape": (8, 12)}, r"wells P24 lie outside .*\(8, 12\)"),
        (COMPOUND_MAP, {"wells": ["C01", "D01"]}, "no well in common with plate P1: .*C01, D01"),
        (COMPOUND_MAP, {"wells": ["A01", "C01"]}, "lacks wells C01 of plate P1"),
        (
            COMPOUND_MAP,
            {"columns": PlatemapColumns(pert_name="drug")},
            "no column 'drug', named as its pert_",
        ),
        ("well\tpert_name\tpert_type\nA01\tx\tsham\n", {"wells": ["A01"]}, "A01 is 'sham', expect"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, options, message):
    with pytest.raises(CellpipeDataError, match=message) as raised:
        labels(tmp_path, text, **options)
    assert str(tmp_path / "map.tsv") in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (COMPOUND_METADATA.replace("BRD-2", "BRD-7"), r"lacks 1 broad_sample of .*: BRD-2"),
        (COMPOUND_METADATA.replace("BRD-2", "BRD-1"), "broad_sample BRD-1 is there twice"),
        (COMPOUND_METADATA.replace("broad_sample", "sample"), "no column broad_sample"),
    ],
)
def test_metadata_that_does_not_fit(tmp_path, text, message):
    metadata = write(tmp_path / "metadata.tsv", text)
    with pytest.raises(CellpipeDataError, match=message) as raised:
        labels(tmp_path, metadata=metadata)
    assert str(metadata) in str(raised.value)


def test_unknown_type():
    with pytest.raises(CellpipeValueError, match="trt, negcon, poscon, empty, got control"):
        PlatemapColumns(types={"0": "control"})


def test_missing_file(tmp_path):
    with pytest.raises(CellpipeDataError, match=re.escape(str(tmp_path / "none.tsv"))):
        read_platemap(tmp_path / "none.tsv", plate="P1", wells=["A01"])


def real(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


@pytest.mark.data
@pytest.mark.parametrize(
    ("version", "column", "classes"),
    [
        ("JUMP-Target_at_fc15616", "target", 161),
        ("JUMP-Target_at_3252e03", "target", 161),
        ("JUMP-Target", "target_list", 267),
    ],
)
def test_jump_target_classes(version, column, classes, caplog):
    """160 targets and DMSO, as long as the metadata have one target per compound."""
    caplog.set_level("INFO")
    table = read_platemap(
        real(JUMP / "JUMP-Target" / "JUMP-Target-1_compound_platemap.tsv"),
        plate="BR00117010",
        wells=ALL_384,
        shape=(16, 24),
        metadata=JUMP / version / "JUMP-Target-1_compound_metadata.tsv",
    )
    assert table[schema.TARGET].nunique() == classes
    assert f"target from {column}" in caplog.text
    counts = table[schema.PERT_TYPE].value_counts()
    assert counts["negcon"] == 64
    assert counts["trt"] + counts["poscon"] == 320
    dmso = table[table[schema.PERT_TYPE] == "negcon"]
    assert set(dmso[schema.PERT_NAME]) == {"DMSO"}
    assert set(dmso[schema.JCP2022]) == {schema.DMSO_JCP2022}
    assert set(dmso[schema.TARGET]) == {""}


@pytest.mark.data
@pytest.mark.parametrize(
    ("plate", "kind", "targets"), [("BR00117006", "orf", 175), ("BR00118041", "crispr", 160)]
)
def test_jump_genetic_plates(plate, kind, targets):
    """Both libraries have four empty wells and 60 of negative controls."""
    folder = real(CPG0000)
    table = read_platemap(
        folder / "barcode_platemap.csv",
        plate=plate,
        wells=ALL_384,
        shape=(16, 24),
        metadata=folder / f"JUMP-Target-1_{kind}_metadata.tsv",
    )
    counts = table[schema.PERT_TYPE].value_counts()
    assert (counts["empty"], counts["negcon"]) == (4, 60)
    assert table[schema.TARGET][table[schema.TARGET] != ""].nunique() == targets


@pytest.mark.data
def test_plates_that_are_not_jumps():
    doses = real(DATA / "sbs_translocation_dose_plate" / "ExampleSBSImages" / "1049_Metadata.csv")
    table = read_platemap(
        doses,
        plate="SBS",
        wells=["A01", "A12", "H12"],
        columns=PlatemapColumns(
            pert_name="SBS_Doses",
            pert_type="SBS_Controls",
            types={"-1": "negcon", "1": "poscon", "0": "trt"},
        ),
    )
    assert list(table.loc[["A01", "A12", "H12"], schema.PERT_TYPE]) == [
        *("negcon", "poscon", "negcon")
    ]
    nf1 = read_platemap(
        real(DATA / "nf1_cellpainting_plate2" / "metadata" / "barcode_platemap.csv"),
        plate="Plate_2_nf1_analysis",
        wells=["B07", "D06", "D07"],
        columns=PlatemapColumns(pert_name="genotype"),
    )
    assert list(nf1.loc[["B07", "D06", "D07"], schema.PERT_NAME]) == ["Null", "WT", "Null"]
    seeded = read_platemap(
        real(DATA / "pediatric_BR00143976_C03_site3_6ch" / "metadata" / "platemaps")
        / "Barcode_platemap_pilot_data.csv",
        plate="BR00143976",
        wells=["C03"],
        columns=PlatemapColumns(pert_name="cell_line"),
    )
    assert seeded.loc["C03", schema.PERT_NAME] == "DAOY"
    assert seeded.loc["C03", "Metadata_seeding_density"] == "1000"
