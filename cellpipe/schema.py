"""Names of columns and keys that more than one stage reads, in one place.

JUMP's conventions: everything that describes a well, a site or a perturbation is a column
``Metadata_<Name>``; the key of a site is ``<source>__<batch>__<plate>__<well>__<site>`` and that of
a cell adds ``__<cell>``.
"""

SOURCE = "Metadata_Source"
BATCH = "Metadata_Batch"
PLATE = "Metadata_Plate"
WELL = "Metadata_Well"
SITE = "Metadata_Site"
OBJECT = "Metadata_ObjectNumber"
SITE_KEY = (SOURCE, BATCH, PLATE, WELL, SITE)

JCP2022 = "Metadata_JCP2022"
BROAD_SAMPLE = "Metadata_broad_sample"
PERT_NAME = "Metadata_pert_name"
PERT_TYPE = "Metadata_pert_type"
TARGET = "Metadata_target"
NEGCON = "negcon"
"""Value of `PERT_TYPE` for negative controls (DMSO, non-targeting guides)."""

DMSO_JCP2022 = "JCP2022_033924"
"""JUMP's identifier of DMSO, perturbation_control.csv."""

CELL_COUNT = "Count_Nuclei"
"""Nuclei found in the cell's site."""


def well_name(row: int, column: int) -> str:
    """Name of a well from its zero-based row and column: (0, 0) is ``A01``, (26, 3) is ``AA04``."""
    letters = chr(ord("A") + row) if row < 26 else "A" + chr(ord("A") + row - 26)
    return f"{letters}{column + 1:02d}"
