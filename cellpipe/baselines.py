"""What a classifier reaches without looking at morphology: intensity and the number of cells.

Published scores on Cell Painting are partly the cell count; a model has to beat these.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from cellpipe import schema
from cellpipe.classification import classify_by_neighbours
from cellpipe.embeddings import Embeddings
from cellpipe.scores import score


def intensity_columns(table: pd.DataFrame) -> list[str]:
    """Names of the mean intensities of a site, of the channels that every plate has."""
    return [
        name
        for name in table
        if name.startswith("QC_") and name.endswith("_mean") and table[name].notna().all()
    ]


def intensity_baseline(
    files: Sequence[Embeddings], rows: pd.DataFrame, labels: Sequence[str]
) -> dict[str, Any] | None:
    """Nearest neighbours on the mean intensities of a cell's site; None where there are none.

    The cells of a site share their values. Under the random split ``paper`` this baseline therefore
    finds a test cell's own site among the train cells, and its accuracy shows the leak.
    """
    obs = pd.concat([file.obs for file in files])
    columns = intensity_columns(obs)
    if not columns:
        return None
    values = _standardised(obs, columns)
    starts = np.cumsum([0, *[len(file.obs) for file in files]])
    chosen = values[starts[rows["file"]] + rows["row"].to_numpy()]
    return classify_by_neighbours(chosen, rows, labels, metric="euclidean").scores(["test"])


def count_baselines(
    wells: pd.DataFrame, rows: pd.DataFrame, labels: Sequence[str]
) -> dict[str, Any]:
    """Classify wells by the nearest centroid of cell count, without and with intensities.

    Parameters
    ----------
    wells
        ``obs`` of the well profiles.
    rows
        The labelled rows, which say the class and the part of a well. A well that has cells in
        several parts (split ``paper``) can't be held out, and is left out.
    """
    if schema.CELL_COUNT not in wells:
        return {}
    key = [schema.PLATE, schema.WELL]
    labelled = rows[[*key, "split", "truth"]].drop_duplicates()
    labelled = labelled[~labelled.duplicated(key, keep=False)]
    intensities = intensity_columns(wells)
    choices = {"cell_count": [schema.CELL_COUNT]}
    if intensities:
        choices["cell_count_and_intensity"] = [schema.CELL_COUNT, *intensities]
    results = {}
    for name, columns in choices.items():
        values = pd.DataFrame(_standardised(wells, columns), columns=columns)
        table = labelled.merge(wells[key].reset_index(drop=True).join(values), on=key)
        results[name] = {"test": {"well": _nearest_centroid(table, columns, labels)}}
    return results


def _nearest_centroid(
    table: pd.DataFrame, columns: list[str], labels: Sequence[str]
) -> dict[str, Any]:
    train, test = (table[table["split"] == part] for part in ("train", "test"))
    if train["truth"].nunique() < 2 or test.empty:
        return score(np.empty(0, int), np.empty(0, int), labels)
    centroids = train.groupby("truth")[columns].mean()
    predicted = centroids.index.to_numpy()[cdist(test[columns], centroids).argmin(axis=1)]
    return score(test["truth"].to_numpy(), predicted, labels)


def _standardised(table: pd.DataFrame, columns: list[str]) -> np.ndarray:
    """`columns` in units of the spread of each plate's negative controls: (row, column)."""
    control = table[schema.PERT_TYPE] == schema.NEGCON
    values = table[columns].astype(np.float64)
    plates = table[schema.PLATE]
    statistics = values[control].groupby(plates[control])
    mean = statistics.mean().loc[plates].to_numpy()
    std = statistics.std(ddof=0).loc[plates].to_numpy()
    return (values.to_numpy() - mean) / np.where(std > 0, std, 1)
