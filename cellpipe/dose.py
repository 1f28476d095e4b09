"""A linear read-out of the dose: whether the embedding orders wells as their dose does."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold

from cellpipe import schema
from cellpipe.errors import CellpipeValueError

ALPHAS = np.logspace(-2, 5, 15)
"""Ridge penalties to choose from by generalised cross-validation on the wells that are fitted."""

FOLDS = 32
"""Parts of the cross-validation; up to this many wells it leaves out one at a time."""

MINIMUM_WELLS = 3


def dose_readout(
    obs: pd.DataFrame, profiles: np.ndarray, parts: pd.Series, *, column: str
) -> dict[str, Any]:
    """Rank correlation of the dose with the first principal component and with a ridge regression.

    The regression predicts the rank of the dose among the plates' doses, as doses are spaced by
    factors. ``held_out`` fits it on train and validation wells and asks the test wells, which the
    encoder never saw either; ``cross_validated`` leaves out a few of all wells in turn, and is
    optimistic where the encoder was trained on their classes.

    Parameters
    ----------
    obs, profiles
        Wells and their standardised profiles (well, dimension).
    parts
        Part of the split by well, in the order of `obs`; "" where a well has none or several.
    column
        Numeric column of `obs`. Wells without a number are left out.

    Returns
    -------
    dict
        ``column``; ``wells`` with plate, well, perturbation type, split, dose, ``pc1`` (its sign
        chosen to rise with the dose), ``cross_validated`` and ``held_out`` (None outside test),
        both in dose ranks; and ``spearman`` of ``pc1``, ``cross_validated`` and ``held_out``, with
        ``n_held_out``. None where fewer than three wells or a constant allow no correlation.
    """
    if column not in obs:
        numeric = [n for n in obs if n.startswith("Metadata_")]
        raise CellpipeValueError(
            f"evaluate.dose_column: no column {column!r}, wells have {numeric}"
        )
    dose = pd.to_numeric(obs[column], errors="coerce")
    known = dose.notna().to_numpy()
    if known.sum() < MINIMUM_WELLS:
        raise CellpipeValueError(
            f"evaluate.dose_column: {column!r} holds a number in {known.sum()} wells, expected "
            f"{MINIMUM_WELLS} or more; it holds {sorted(set(obs[column].astype(str)))[:10]}"
        )
    dose = dose[known]
    values = np.asarray(profiles, np.float64)[known]
    part = parts[known].to_numpy()
    rank = dose.rank(method="dense").to_numpy()

    pc1 = PCA(1, random_state=0).fit_transform(values)[:, 0]
    if (correlation := _spearman(pc1, rank)) is not None and correlation < 0:
        pc1 = -pc1
    crossed = np.empty(len(rank))
    for fit, left_out in KFold(min(len(rank), FOLDS), shuffle=True, random_state=0).split(values):
        crossed[left_out] = _predict(values[fit], rank[fit], values[left_out], rank.mean())
    test = part == "test"
    fitted = np.isin(part, ["train", "val"])
    held_out = np.full(len(rank), np.nan)
    if test.any() and fitted.sum() >= MINIMUM_WELLS:
        held_out[test] = _predict(values[fitted], rank[fitted], values[test], rank.mean())

    wells = obs.loc[known, [schema.PLATE, schema.WELL, schema.PERT_TYPE]].assign(
        split=part, dose=dose, pc1=pc1, cross_validated=crossed, held_out=held_out
    )
    return {
        "column": column,
        "n": int(known.sum()),
        "n_held_out": int(np.isfinite(held_out).sum()),
        "spearman": {
            "pc1": _spearman(pc1, rank),
            "cross_validated": _spearman(crossed, rank),
            "held_out": _spearman(held_out[test], rank[test]),
        },
        "wells": wells.astype(object).where(wells.notna(), None).to_dict("records"),
    }


def _predict(fitted: np.ndarray, rank: np.ndarray, asked: np.ndarray, centre: float) -> np.ndarray:
    """Predict ranks by a ridge regression of deviations from the mean rank, around `centre`.

    The mean over the fitted wells falls when a well of high dose is left out. With it in the
    prediction, features without any signal would give a rank correlation near -1.
    """
    return RidgeCV(ALPHAS).fit(fitted, rank - rank.mean()).predict(asked) + centre


def _spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    usable = np.isfinite(first) & np.isfinite(second)
    first, second = first[usable], second[usable]
    if len(first) < MINIMUM_WELLS or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(spearmanr(first, second).statistic)
