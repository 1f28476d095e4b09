"""Seconds, rate and memory of every stage, from Snakemake's benchmark files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from cellpipe.errors import CellpipeDataError
from cellpipe.figures import style


@dataclass(frozen=True)
class Counts:
    """Sites and nuclei of one plate."""

    sites: int
    cells: int


def draw_throughput(
    benchmarks: Sequence[Path], *, sites: Sequence[Path], cells: Sequence[Path], output: Path
) -> None:
    """Draw how long each stage took, how many sites and cells a second, and the most memory.

    Parameters
    ----------
    benchmarks
        ``<stage>/<plate>.tsv`` of a stage that runs once a plate, ``<stage>.tsv`` of one that runs
        once.
    sites, cells
        Site and cell tables of the plates; a plate's name is the file's up to the first suffix.
    """
    counts = _counts(sites, cells)
    stages = summarise(benchmarks, counts)
    with style.figure(11, 0.5 * len(stages) + 1.9, output) as figure:
        total = sum(count.cells for count in counts.values())
        fields = sum(count.sites for count in counts.values())
        figure.suptitle(
            f"{style.counted(len(counts), 'plate')}, {fields:,} sites, {total:,} nuclei; "
            f"{_duration(stages['seconds'].sum())} in all, one job after the other"
        )
        axes = figure.subplots()
        y = np.arange(len(stages))[::-1]
        axes.barh(y, stages["seconds"], color=style.ACCENT, height=0.62)
        axes.set_yticks(y, stages.index)
        axes.set(xlabel="seconds, all plates", xscale="log")
        axes.set_xlim(max(0.05, stages["seconds"].min() / 3), stages["seconds"].max() * 1.5)
        for position, (_, stage) in zip(y, stages.iterrows(), strict=True):
            rate = f"{_rate(stage['sites_per_s'])} sites/s   {_rate(stage['cells_per_s'])} cells/s"
            rate = rate if stage["sites"] else " " * len(rate)
            memory = f"{stage['max_rss_mb'] / 1024:.1f} GB"
            axes.annotate(
                f"{_duration(stage['seconds']):>8}   {rate}   {memory:>8}",
                (1, position),
                xycoords=("axes fraction", "data"),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                family="monospace",
                size=10,
            )


def summarise(benchmarks: Sequence[Path], counts: dict[str, Counts]) -> pd.DataFrame:
    """One row a stage, longest first: seconds, sites, cells, sites_per_s, cells_per_s, max_rss_mb.

    A stage that runs once for all plates has no rate: training, say, sees a cell many times. The
    last repeat of a benchmark counts.
    """
    rows = []
    for path in benchmarks:
        try:
            last = pd.read_csv(path, sep="\t", na_values="-").iloc[-1]
            seconds, memory = float(last["s"]), float(last["max_rss"])
        except (OSError, KeyError, IndexError, ValueError) as error:
            raise CellpipeDataError(
                f"{path}: not a Snakemake benchmark with s and max_rss ({error})"
            ) from error
        count = counts.get(path.stem)
        rows.append(
            {
                "stage": path.stem if count is None else path.parent.name,
                "seconds": seconds,
                "max_rss_mb": memory,
                "sites": 0 if count is None else count.sites,
                "cells": 0 if count is None else count.cells,
            }
        )
    if not rows:
        raise CellpipeDataError("throughput: expected at least one benchmark file, got none")
    groups = pd.DataFrame(rows).groupby("stage")
    stages = groups[["seconds", "sites", "cells"]].sum()
    stages["max_rss_mb"] = groups["max_rss_mb"].max()
    for what in ("sites", "cells"):
        stages[f"{what}_per_s"] = stages[what] / stages["seconds"].clip(lower=1e-3)
    return stages.sort_values("seconds", ascending=False)


def _counts(sites: Sequence[Path], cells: Sequence[Path]) -> dict[str, Counts]:
    rows = [
        {path.name.split(".")[0]: pq.read_metadata(path).num_rows for path in paths}
        for paths in (sites, cells)
    ]
    return {plate: Counts(number, rows[1].get(plate, 0)) for plate, number in rows[0].items()}


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _rate(value: float) -> str:
    return f"{value:>7.0f}" if value >= 100 else f"{value:>7.2g}"
