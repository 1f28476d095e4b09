"""Do replicates of a perturbation find each other among negative controls: replicate mAP.

Mean average precision as in Kalinin et al. (copairs), with the pairs of JUMP's profiling recipe for
phenotypic activity: a query well ranks the other wells of its perturbation, on any plate, and the
negative controls of its own plate by cosine similarity.
"""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from copairs.map import average_precision, mean_average_precision

from cellpipe import schema
from cellpipe.profile import MINIMUM_CONTROLS

log = logging.getLogger(__name__)
logging.getLogger("copairs").setLevel(logging.WARNING)  # it tells every step of every call

REPLICATES = (2, 1000)
"""Wells a perturbation needs and may have, as in JUMP's recipe."""

THRESHOLD = 0.05
NULL_SIZE = 10_000

HELD_OUT_DRAWS = 100
"""Times that control wells are drawn to play a compound."""

ALARM = 0.12
"""Fraction of draws below `THRESHOLD` that is reported: three standard errors above it."""

COLUMNS = [
    "n_wells",
    "n_plates",
    "mean_average_precision",
    "mean_normalized_average_precision",
    "p_value",
    "corrected_p_value",
    "significant",
    "reason",
]

ROLE = "role"
"""``negcon`` or ``trt``; positive controls count as treated, or they would be negatives of all."""

GROUP = "group"
"""Number of the perturbation; every control well is a group of its own.

As one group, controls would be paired with each other: many pairs that nobody reads.
"""


@dataclass(frozen=True)
class Replicability:
    """Replicate mAP of some plates.

    table
        One row a perturbation: its name and type, then `COLUMNS`. ``reason`` says why there is no
        value. The last row holds the drawn controls: means, and the median of the p-values.
    wells
        Metadata_Plate, Metadata_Well and the well's ``normalized_average_precision``, where it is
        0 for a random ranking and 1 where all replicates come first.
    summary
        For metrics.json.
    """

    table: pd.DataFrame
    wells: pd.DataFrame
    summary: dict[str, Any]


def replicability(
    obs: pd.DataFrame, profiles: np.ndarray, *, perturbation: str, seed: int
) -> Replicability:
    """Compute the replicate mAP of every perturbation against the negative controls.

    Parameters
    ----------
    obs, profiles
        Wells and their profiles (well, dimension), standardised on all controls of their plate.
    perturbation
        Column that names the perturbation. Wells without one, or of type ``empty``, are left out.
    """
    known = ((obs[perturbation] != "") & (obs[schema.PERT_TYPE] != "empty")).to_numpy()
    meta = obs.loc[known, [schema.PLATE, schema.WELL, perturbation, schema.PERT_TYPE]]
    meta = meta.reset_index(drop=True)
    profiles = np.asarray(profiles, np.float64)[known]
    control = meta[schema.PERT_TYPE] == schema.NEGCON
    meta[ROLE] = np.where(control, "negcon", "trt")
    meta[GROUP] = np.where(control, -1 - meta.index, pd.factorize(meta[perturbation])[0])

    counts = meta[perturbation].value_counts()
    replicated = counts.index[counts.between(*REPLICATES)]
    chosen = (control | meta[perturbation].isin(replicated)).to_numpy()
    found = pd.DataFrame(columns=[perturbation, *COLUMNS])
    wells = pd.DataFrame(columns=[schema.PLATE, schema.WELL, "normalized_average_precision"])
    if (chosen & ~control).any():
        precision = _average_precision(meta[chosen], profiles[chosen])
        found = _mean_average_precision(precision, perturbation, seed)
        wells = precision[wells.columns].reset_index(drop=True)
    held_out, check = _held_out_controls(meta, profiles, perturbation, seed)
    described = _describe(meta[~control], found, perturbation)
    table = pd.concat([described, pd.DataFrame([held_out])], ignore_index=True)
    tested = described[described["p_value"].notna()]
    summary = {
        "perturbations": len(described),
        "tested": len(tested),
        "significant": int(tested["significant"].sum()),
        "threshold": THRESHOLD,
        "mean_normalized_average_precision": (
            float(tested["mean_normalized_average_precision"].mean()) if len(tested) else None
        ),
        "dmso_held_out": check,
    }
    return Replicability(table, wells, summary)


def _average_precision(meta: pd.DataFrame, profiles: np.ndarray) -> pd.DataFrame:
    """`meta` of the treated wells, with how well each finds its replicates."""
    precision = average_precision(
        meta.reset_index(drop=True),
        profiles,
        pos_sameby=[GROUP],
        pos_diffby=[],
        neg_sameby=[schema.PLATE],
        neg_diffby=[ROLE, GROUP],
        batch_size=20_000,
        progress_bar=False,
    )
    return precision[precision[ROLE] == "trt"]


def _mean_average_precision(precision: pd.DataFrame, sameby: str, seed: int) -> pd.DataFrame:
    # copairs keeps null distributions in the home folder by default, where runs of other data
    # with another order of seeds would answer.
    with tempfile.TemporaryDirectory() as cache:
        scores = mean_average_precision(
            precision,
            [sameby],
            null_size=NULL_SIZE,
            threshold=THRESHOLD,
            seed=seed,
            progress_bar=False,
            cache_dir=Path(cache),
        )
    return scores.rename(columns={"below_corrected_p": "significant"})


def _describe(treated: pd.DataFrame, found: pd.DataFrame, perturbation: str) -> pd.DataFrame:
    groups = treated.groupby(perturbation)
    table = pd.DataFrame(
        {
            schema.PERT_TYPE: groups[schema.PERT_TYPE].first(),
            "n_wells": groups.size(),
            "n_plates": groups[schema.PLATE].nunique(),
        }
    )
    table = table.join(found.set_index(perturbation)[COLUMNS[2:-1]])
    few, many = REPLICATES
    table["reason"] = ""
    table.loc[table["n_wells"] < few, "reason"] = f"fewer than {few} wells"
    table.loc[table["n_wells"] > many, "reason"] = f"more than {many} wells"
    table["significant"] = table["significant"].eq(True)
    return table.reset_index()


def _held_out_controls(
    meta: pd.DataFrame, profiles: np.ndarray, perturbation: str, seed: int
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Let control wells play a compound, `HELD_OUT_DRAWS` times, and test it as any other.

    A draw takes as many wells of each plate as a perturbation typically has there (at most half of
    the controls), and keeps them out of the standardisation, as compounds are kept out. With
    controls standardised on themselves the check would be blind to what it is for: all compounds
    share the error of the control mean, by which they resemble each other and not the controls. On
    one plate with 2 replicates, up to a quarter of simulated inactive compounds pass p < 0.05 with
    8 controls, and 5 % with 64. With few controls the check errs on the side of alarm, as those
    that stay behind are fewer still.

    Returns the row for the table and the entry for the summary.
    """
    rng = np.random.default_rng(seed)
    names = meta.loc[meta[ROLE] == "negcon", perturbation]
    name = f"{names.mode()[0] if len(names) else schema.NEGCON} (held-out)"
    row = {perturbation: name, schema.PERT_TYPE: schema.NEGCON, "significant": False}
    draws = [_draw(meta, profiles, perturbation, rng) for _ in range(HELD_OUT_DRAWS)]
    first = draws[0][0]
    held_out = first[first[ROLE] == "trt"]
    if len(held_out) < REPLICATES[0]:
        return row | {"n_wells": 0, "n_plates": 0, "reason": "too few control wells"}, None
    # All draws in one call, told apart by the names of their plates: a call costs 0.1 s.
    drawn = pd.concat([table.assign(draw=index) for index, (table, _) in enumerate(draws)])
    drawn[schema.PLATE] = drawn[schema.PLATE].astype(str) + "#" + drawn["draw"].astype(str)
    drawn[GROUP] = np.where(drawn[ROLE] == "trt", drawn["draw"], -1 - np.arange(len(drawn)))
    precision = _average_precision(drawn, np.concatenate([values for _, values in draws]))
    scores = _mean_average_precision(precision, "draw", seed)
    means = scores[["mean_average_precision", "mean_normalized_average_precision"]].mean().to_dict()
    p_value = float(scores["p_value"].median())
    passing = float(scores["below_p"].mean())
    if passing > ALARM:
        log.warning(
            "%.0f %% of draws of %d control wells pass p < %g: p-values are too small on these "
            "plates. More control wells, or replicates on more plates, help",
            100 * passing,
            len(held_out),
            THRESHOLD,
        )
    row |= means | {
        "n_wells": len(held_out),
        "n_plates": held_out[schema.PLATE].nunique(),
        "p_value": p_value,
        "corrected_p_value": p_value,
        "significant": p_value < THRESHOLD,
        "reason": "",
    }
    interval = scores["mean_normalized_average_precision"].quantile([0.025, 0.975])
    check = means | {
        "name": name,
        "draws": HELD_OUT_DRAWS,
        "wells": len(held_out),
        "normalized_interval_95": interval.tolist(),
        "median_p_value": p_value,
        "fraction_below_threshold": passing,
    }
    return row, check


def _draw(
    meta: pd.DataFrame, profiles: np.ndarray, perturbation: str, rng: np.random.Generator
) -> tuple[pd.DataFrame, np.ndarray]:
    """Control wells and their profiles, some held out in the role of one compound."""
    parts = []
    values = []
    for _, here in meta.groupby(schema.PLATE).indices.items():
        plate = meta.iloc[here]
        control = here[(plate[ROLE] == "negcon").to_numpy()]
        replicates = plate.loc[plate[ROLE] == "trt", perturbation].value_counts()
        typical = max(1, round(replicates.median())) if len(replicates) else 1
        count = max(0, min(typical, len(control) // 2, len(control) - MINIMUM_CONTROLS))
        order = rng.permutation(control)
        reference = profiles[order[count:]]
        std = reference.std(axis=0)
        values.append((profiles[order] - reference.mean(axis=0)) / np.where(std > 0, std, 1))
        drawn = meta.iloc[order].copy()
        drawn.iloc[:count, drawn.columns.get_loc(ROLE)] = "trt"
        parts.append(drawn)
    return pd.concat(parts), np.concatenate(values).astype(np.float32)
