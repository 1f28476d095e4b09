"""What is left out of a plate, and why."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from cellpipe import schema
from cellpipe.errors import CellpipeDataError
from cellpipe.fields import FieldReport, Problem
from fastvim.files import atomic_path

log = logging.getLogger(__name__)

COLUMNS = (schema.PLATE, schema.WELL, schema.SITE, "channel", "file", "reason")


def set_apart(plate: str, reports: Sequence[FieldReport], quarantine: Path) -> list[FieldReport]:
    """Write the quarantine table (CSV, one row per bad image) and return the usable fields.

    Raises
    ------
    CellpipeDataError
        If no field is usable; the table is there nevertheless.
    """
    reports = _with_odd_ones(reports)
    rows = [
        (plate, report.well, report.site, problem.channel, problem.file, problem.reason)
        for report in reports
        for problem in report.problems
    ]
    with atomic_path(quarantine) as temporary:
        pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(temporary, index=False)
    usable = [report for report in reports if not report.problems]
    if not usable:
        raise CellpipeDataError(
            f"plate {plate}: none of {len(reports)} fields of view is usable. The first reason in "
            f"{quarantine}: {rows[0][4]} {rows[0][5]}"
        )
    log.info("plate %s: %d fields of view", plate, len(usable))
    if rows:
        log.warning(
            "plate %s: left out %d of %d fields of view, see %s",
            *(plate, len(reports) - len(usable), len(reports), quarantine),
        )
    return usable


def _with_odd_ones(reports: Sequence[FieldReport]) -> list[FieldReport]:
    """Add a problem to every image whose shape or type is not that of most of the plate."""
    shapes = Counter(shape for report in reports for shape in report.shapes.values())
    types = Counter(pair for report in reports for pair in report.types.items())
    # Counted upwards, so that the type that most images of a channel have is set last.
    usual_types = dict(pair for pair, _ in reversed(types.most_common()))
    checked = []
    for report in reports:
        odd = []
        for channel, shape in report.shapes.items():
            usual, file = shapes.most_common(1)[0][0], report.files[channel]
            if shape != usual:
                reason = f"has shape {shape}, most of the plate has {usual}"
                odd.append(Problem(channel, file, reason))
            kind, usual_kind = report.types[channel], usual_types[channel]
            if kind != usual_kind:
                reason = f"has pixels of type {kind}, most of the channel has {usual_kind}"
                odd.append(Problem(channel, file, reason))
        checked.append(replace(report, problems=(*report.problems, *odd)))
    return checked
