"""Telling classes apart from embeddings: the trained head, and k nearest neighbours.

Wells are classified by the mean of the class probabilities of their cells.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.progress import track
from safetensors import SafetensorError
from safetensors.numpy import load_file
from scipy.special import softmax
from sklearn.neighbors import KNeighborsClassifier

from cellpipe import schema
from cellpipe.embeddings import Embeddings
from cellpipe.errors import CellpipeDataError
from cellpipe.profile import check_controls
from cellpipe.scores import score
from cellpipe.split import Split

NEIGHBOURS = 15

KNN_CELLS = 20_000
"""Most cells to learn from and most to test on; beyond it, a random draw of them."""

WELL = [schema.PLATE, schema.WELL, "split"]
"""A well of the random split ``paper`` has cells in every part, hence the part in the key."""


@dataclass(frozen=True)
class Head:
    """The linear classifier of a trained model: logits = embedding @ weight.T + bias."""

    labels: tuple[str, ...]
    weight: np.ndarray
    bias: np.ndarray
    weights_sha256: str

    @classmethod
    def read(cls, folder: Path) -> "Head":
        """Read the head from a model folder, without building the model."""
        weights = folder / "model.safetensors"
        try:
            tensors = load_file(weights)
            labels = json.loads((folder / "cellpipe.json").read_text())["labels"]
            head = cls(
                tuple(labels),
                tensors["head.weight"].astype(np.float32),
                tensors["head.bias"].astype(np.float32),
                hashlib.sha256(weights.read_bytes()).hexdigest(),
            )
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise CellpipeDataError(
                f"{folder}: not a model folder of cellpipe train ({error})"
            ) from error
        return head

    def check(self, files: Sequence[Embeddings], split: Split) -> None:
        """Raise CellpipeDataError unless embeddings, split and this head belong together."""
        for file in files:
            made_by = file.provenance.get("weights_sha256", self.weights_sha256)
            if made_by != self.weights_sha256 or len(file.features) != self.weight.shape[1]:
                raise CellpipeDataError(
                    f"{file.path}: embedded by other weights ({made_by[:12]}…, "
                    f"{len(file.features)} dimensions) than the model's "
                    f"({self.weights_sha256[:12]}…, {self.weight.shape[1]}). Embed the plate again"
                )
        if set(self.labels) != set(split.labels):
            differing = sorted(set(self.labels) ^ set(split.labels))
            raise CellpipeDataError(
                f"the model knows {len(self.labels)} classes and the split has "
                f"{len(split.labels)}; they differ in {differing[:10]}. Train on this split"
            )

    def probabilities(self, embedding: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        """Class probabilities (row, class), classes in the order of `labels`."""
        order = [self.labels.index(label) for label in labels]
        logits = embedding @ self.weight.T + self.bias
        return softmax(logits[:, order], axis=1)


def label_rows(files: Sequence[Embeddings], split: Split) -> pd.DataFrame:
    """Find the rows of the embeddings that the split uses.

    Returns
    -------
    DataFrame
        Indexed by ``obs_names``, with Metadata_Plate, Metadata_Well, label, split (train, val or
        test), ``file`` and ``row`` (where the embedding is) and ``truth`` (index of the class).
    """
    used = split.cells[split.cells["split"] != "unused"]
    by_cell = used.set_index("cell_id")[["label", "split"]]
    parts = []
    for index, file in enumerate(files):
        rows = file.obs[[schema.PLATE, schema.WELL]].assign(file=index, row=range(len(file.obs)))
        joined = rows.join(by_cell, how="inner")
        if joined.empty and schema.OBJECT not in file.obs:
            joined = _join_by_well(rows, used)
        parts.append(joined)
    table = pd.concat(parts)
    if table.empty:
        raise CellpipeDataError(
            f"none of {sum(len(file.obs) for file in files)} embedded rows is in the split "
            f"(embedded: {list(files[0].obs.index[:1])}, split: {list(used['cell_id'][:1])}). "
            "Split the cell tables of these plates"
        )
    table["truth"] = table["label"].map({name: i for i, name in enumerate(split.labels)})
    return table


def _join_by_well(rows: pd.DataFrame, used: pd.DataFrame) -> pd.DataFrame:
    """Give whole fields the class and part of their well's cells."""
    key = [schema.PLATE, schema.WELL]
    wells = used[[*key, "label", "split"]].drop_duplicates()
    if wells.duplicated(key).any():
        raise CellpipeDataError(
            "whole fields cannot be evaluated on a split that deals the cells of a well to several "
            "parts. Split by well or by plate"
        )
    return rows.join(wells.set_index(key), on=key, how="inner")


class Votes:
    """Class probabilities of rows, kept as the best class a row and the mean a well."""

    def __init__(self, rows: pd.DataFrame, labels: Sequence[str]) -> None:
        self.labels = labels
        self._rows = rows
        self._predicted = np.full(len(rows), -1)
        self._probability = np.zeros(len(rows), np.float32)
        groups = rows.groupby(WELL, sort=True)
        self._well_of_row = groups.ngroup().to_numpy()
        self._wells = groups[["label", "truth"]].first().reset_index()
        self._sums = np.zeros((len(self._wells), len(labels)))

    def add(self, positions: np.ndarray, probabilities: np.ndarray) -> None:
        """Take the (row, class) probabilities of the rows at `positions`."""
        self._predicted[positions] = probabilities.argmax(axis=1)
        self._probability[positions] = probabilities.max(axis=1)
        np.add.at(self._sums, self._well_of_row[positions], probabilities)

    def by_row(self) -> pd.DataFrame:
        """Rows with their ``predicted`` class (index) and its ``probability``."""
        return self._rows.assign(predicted=self._predicted, probability=self._probability)

    def by_well(self) -> pd.DataFrame:
        """Wells with their predicted class and its mean probability."""
        means = self._sums / self._sums.sum(axis=1, keepdims=True)
        probability = means.max(axis=1).astype(np.float32)
        return self._wells.assign(predicted=means.argmax(axis=1), probability=probability)

    def scores(self, parts: Sequence[str]) -> dict[str, Any]:
        """``{part: {"cell": score, "well": score}}``."""
        levels = {"cell": self.by_row(), "well": self.by_well()}
        return {
            part: {level: self._score(table, part) for level, table in levels.items()}
            for part in parts
        }

    def _score(self, table: pd.DataFrame, part: str) -> dict[str, Any]:
        chosen = table[table["split"] == part]
        return score(chosen["truth"].to_numpy(), chosen["predicted"].to_numpy(), self.labels)


def classify_by_head(
    files: Sequence[Embeddings], rows: pd.DataFrame, head: Head, labels: Sequence[str]
) -> Votes:
    """Let the trained head classify all labelled rows, block by block."""
    votes = Votes(rows, labels)
    for index, file in enumerate(track(files, "Classifying")):
        position = np.full(len(file.obs), -1)
        here = np.flatnonzero(rows["file"] == index)
        position[rows["row"].to_numpy()[here]] = here
        for block, embedding in file.blocks():
            labelled = position[block] >= 0
            votes.add(position[block][labelled], head.probabilities(embedding[labelled], labels))
    return votes


def draw_rows(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """At most `KNN_CELLS` random rows to learn from (train) and as many to test on (test)."""
    rng = np.random.default_rng(seed)
    drawn = []
    for part in ("train", "test"):
        here = np.flatnonzero(rows["split"] == part)
        drawn.append(np.sort(rng.permutation(here)[:KNN_CELLS]))
    return rows.iloc[np.concatenate(drawn)]


def standardised_rows(files: Sequence[Embeddings], rows: pd.DataFrame) -> np.ndarray:
    """Embeddings of `rows`, standardised on the control cells of each plate: (row, dimension)."""
    values = np.empty((len(rows), len(files[0].features)), np.float32)
    for index, file in enumerate(files):
        here = np.flatnonzero(rows["file"] == index)
        if len(here):
            mean, std = _control_statistics(file)
            values[here] = (file.read(rows["row"].to_numpy()[here]) - mean) / std
    return values


def _control_statistics(file: Embeddings) -> tuple[np.ndarray, np.ndarray]:
    control = (file.obs[schema.PERT_TYPE] == schema.NEGCON).to_numpy()
    wells = file.obs.drop_duplicates(schema.WELL)
    check_controls(file.plate, wells[schema.PERT_TYPE])
    total = np.zeros(len(file.features))
    squares = np.zeros(len(file.features))
    for block, embedding in file.blocks():
        chosen = embedding[control[block]].astype(np.float64)
        total += chosen.sum(axis=0)
        squares += (chosen**2).sum(axis=0)
    mean = total / control.sum()
    std = np.sqrt(np.maximum(squares / control.sum() - mean**2, 0))
    # A feature without spread over the controls is centred only, as in the profiles; below float32
    # resolution a spread is rounding.
    return mean, np.where(std > 1e-6 * np.abs(mean), std, 1)


def classify_by_neighbours(
    values: np.ndarray, rows: pd.DataFrame, labels: Sequence[str], *, metric: str
) -> Votes:
    """Classify the test rows by their `NEIGHBOURS` nearest train rows in `values`.

    The votes hold the test rows alone; none where train or test is empty.
    """
    train = (rows["split"] == "train").to_numpy()
    test = rows[rows["split"] == "test"]
    votes = Votes(test, labels)
    if train.any() and len(test):
        model = KNeighborsClassifier(
            min(NEIGHBOURS, int(train.sum())), metric=metric, algorithm="brute"
        ).fit(values[train], rows["truth"].to_numpy()[train])
        queries = values[(rows["split"] == "test").to_numpy()]
        for start in range(0, len(queries), 2048):
            found = model.predict_proba(queries[start : start + 2048])
            probabilities = np.zeros((len(found), len(labels)))
            probabilities[:, model.classes_] = found
            votes.add(np.arange(start, start + len(found)), probabilities)
    return votes
