"""Score embeddings: held-out accuracy, neighbours, baselines, replicate mAP, dose read-out."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import pandas as pd

from cellpipe import replicability as replicates
from cellpipe import schema
from cellpipe.baselines import count_baselines, intensity_baseline
from cellpipe.classification import (
    Head,
    Votes,
    classify_by_head,
    classify_by_neighbours,
    draw_rows,
    label_rows,
    standardised_rows,
)
from cellpipe.dose import dose_readout
from cellpipe.embeddings import Embeddings, as_text
from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.files import write_table
from cellpipe.split import Split
from fastvim.files import atomic_path

log = logging.getLogger(__name__)

VERSION = 1
PARTS = ("train", "val", "test")


def evaluate(
    embeddings: Sequence[Path],
    *,
    wells: Path,
    split: Path,
    model: Path,
    output: Path,
    predictions: Path,
    replicability: Path,
    perturbation: str = schema.PERT_NAME,
    dose_column: str | None = None,
    seed: int = 0,
) -> None:
    """Evaluate the embeddings of some plates on one split.

    Parameters
    ----------
    embeddings
        One file a plate, from `model`.
    wells
        Well profiles of the same plates, from `cellpipe profile`.
    split
        The split that `model` was trained on.
    output
        ``metrics.json``: ``split``, ``seed``, ``labels``, ``plates``, ``counts`` (cells and wells
        by part), ``classification`` (method, part, ``cell`` or ``well``, `cellpipe.scores.score`),
        ``replicability`` (`cellpipe.replicability`), ``dose`` (`cellpipe.dose`, or null). Methods:
        ``head``, the trained classifier; ``knn``, nearest neighbours in the embedding standardised
        on the control cells of each plate; ``intensity``, ``cell_count`` and
        ``cell_count_and_intensity``, which see no morphology (`cellpipe.baselines`).
    predictions
        Parquet, the head's answer for every cell and well of the split: ``level`` (cell or well),
        ``cell_id``, Metadata_Plate, Metadata_Well, label, split, ``predicted``, ``probability``.
    replicability
        CSV, replicate mAP of each perturbation, drawn controls in the last row.
    perturbation
        Column that names the perturbation of a well, for the replicates.
    dose_column
        Numeric column of the wells whose linear read-out is wanted.

    Raises
    ------
    CellpipeDataError
        If embeddings, wells, split and model do not belong together.
    """
    files = Embeddings.open_plates(embeddings)
    dealt = Split.read(split)
    head = Head.read(model)
    head.check(files, dealt)
    rows = label_rows(files, dealt)
    profiles = anndata.read_h5ad(wells)
    obs = as_text(profiles.obs)
    _check_wells(obs, files, perturbation)

    # First, as a wrong column should not cost a whole evaluation.
    dose = (
        None
        if dose_column is None
        else dose_readout(obs, profiles.X, _part_of_wells(obs, rows), column=dose_column)
    )
    by_head = classify_by_head(files, rows, head, dealt.labels)
    found = replicates.replicability(obs, profiles.X, perturbation=perturbation, seed=seed)
    scores = {
        "version": VERSION,
        "split": dealt.name,
        "seed": seed,
        "labels": list(dealt.labels),
        "plates": sorted(file.plate for file in files),
        "counts": {part: _count(rows[rows["split"] == part]) for part in PARTS},
        "classification": _classification(files, rows, obs, by_head, seed),
        "replicability": found.summary | {"wells": _by_plate(found.wells)},
        "dose": dose,
    }
    described = {"split": dealt.name, "labels": list(dealt.labels)}
    write_table(_predictions(by_head), predictions, metadata={"cellpipe": json.dumps(described)})
    with atomic_path(replicability) as temporary:
        found.table.to_csv(temporary, index=False)
    with atomic_path(output) as temporary:
        temporary.write_text(json.dumps(scores, indent=1, allow_nan=False) + "\n")
    _log(scores)


def _classification(
    files: Sequence[Embeddings],
    rows: pd.DataFrame,
    wells: pd.DataFrame,
    by_head: Votes,
    seed: int,
) -> dict[str, Any]:
    labels = by_head.labels
    drawn = draw_rows(rows, seed)
    neighbours = classify_by_neighbours(
        standardised_rows(files, drawn), drawn, labels, metric="cosine"
    )
    results = {"head": by_head.scores(PARTS), "knn": neighbours.scores(["test"])}
    intensity = intensity_baseline(files, drawn, labels)
    if intensity is not None:
        results["intensity"] = intensity
    return results | count_baselines(wells, rows, labels)


def _predictions(votes: Votes) -> pd.DataFrame:
    cells = votes.by_row().rename_axis("cell_id").reset_index().assign(level="cell")
    wells = votes.by_well().assign(level="well", cell_id="")
    table = pd.concat([cells, wells], ignore_index=True)
    table["predicted"] = [votes.labels[index] for index in table["predicted"]]
    columns = ["level", "cell_id", schema.PLATE, schema.WELL, "label", "split"]
    return table[[*columns, "predicted", "probability"]]


def _check_wells(obs: pd.DataFrame, files: Sequence[Embeddings], perturbation: str) -> None:
    profiled, embedded = set(obs[schema.PLATE]), {file.plate for file in files}
    if profiled != embedded:
        raise CellpipeDataError(
            f"wells hold plates {sorted(profiled)}, embeddings {sorted(embedded)}. "
            "Profile the same plates"
        )
    if perturbation not in obs:
        known = [name for name in obs if name.startswith("Metadata_")]
        raise CellpipeValueError(f"evaluate.perturbation: no column {perturbation!r} in {known}")


def _count(rows: pd.DataFrame) -> dict[str, int]:
    return {"cells": len(rows), "wells": int(rows.groupby([schema.PLATE, schema.WELL]).ngroups)}


def _part_of_wells(obs: pd.DataFrame, rows: pd.DataFrame) -> pd.Series:
    key = [schema.PLATE, schema.WELL]
    parts = rows[[*key, "split"]].drop_duplicates()
    parts = parts[~parts.duplicated(key, keep=False)].set_index(key)["split"]
    return obs.join(parts, on=key)["split"].fillna("")


def _by_plate(wells: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Normalised average precision of single wells, by plate and well."""
    return {
        str(plate): {
            well: round(float(value), 4)
            for well, value in zip(
                table[schema.WELL], table["normalized_average_precision"], strict=True
            )
        }
        for plate, table in wells.groupby(schema.PLATE)
    }


def _log(scores: dict[str, Any]) -> None:
    for method, parts in scores["classification"].items():
        for level, result in parts["test"].items():
            if result["n"]:
                log.info(
                    "%s, test %ss of split %s: accuracy %.3f, balanced %.3f (chance %.3f), n=%d",
                    method,
                    level,
                    scores["split"],
                    result["accuracy"],
                    result["balanced_accuracy"],
                    result["chance"],
                    result["n"],
                )
    found = scores["replicability"]
    log.info("replicates: %d of %d perturbations active", found["significant"], found["tested"])
