"""Cells to wells to perturbations: means, standardised on each plate's negative controls."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from pycytominer import aggregate, consensus, normalize
from rich.progress import track

from cellpipe import schema
from cellpipe.embedding_file import UNS
from cellpipe.embeddings import Embeddings
from cellpipe.errors import CellpipeDataError, CellpipeValueError
from fastvim.files import atomic_path

log = logging.getLogger(__name__)

WELL_KEY = [schema.SOURCE, schema.BATCH, schema.PLATE, schema.WELL]
COUNT_CELLS = "Count_Cells"
"""Embedded cells: those that do not touch the border of their field."""
COUNT_SITES = "Count_Sites"
COUNT_WELLS = "Count_Wells"

MINIMUM_CONTROLS = 2
"""A standard deviation needs two wells; fewer than `FEW_CONTROLS` are used under a warning."""

FEW_CONTROLS = 8


def profile(
    embeddings: Sequence[Path],
    *,
    wells: Path,
    perturbations: Path,
    perturbation: str = schema.PERT_NAME,
    sites: Sequence[Path] = (),
) -> None:
    """Write profiles of the wells and of the perturbations of some plates (``.h5ad``).

    A well is the mean of its cells. Every plate is then standardised with mean and standard
    deviation of its own negative controls (``Metadata_pert_type == 'negcon'``), which takes out
    what the whole plate shares. Mean and standard deviation rather than median and MAD: with 8 or
    12 control wells the MAD is off by a third and the replicate mAP of active perturbations fell
    from 0.48 to 0.41 in simulation; with 64 controls both gave the same. A feature that does not
    vary over the controls is centred and not scaled. A perturbation is the mean of its wells.

    Parameters
    ----------
    embeddings
        One file a plate, all from one model.
    wells
        Gets ``X`` (well, dimension) float32 standardised, ``layers["raw"]`` the means before,
        ``obs`` the ``Metadata_*`` that a well has one value of, ``QC_*`` as the mean over its
        sites, ``Count_Cells`` (absent for whole fields), ``Count_Sites`` and ``Count_Nuclei``
        (sum over its sites); ``obs_names`` are ``<source>__<batch>__<plate>__<well>``.
    perturbations
        Gets ``X`` (perturbation, dimension), the mean over wells and plates; ``obs_names`` are the
        values of `perturbation`. Where wells of a perturbation differ in a ``Metadata_*`` column,
        its values are joined by ``|``. Wells without a perturbation are left out.
    perturbation
        Column that names the perturbation of a well.
    sites
        Site tables of the plates: wells in them that hold no embedded cell are logged and listed in
        ``uns["profile"]["wells_without_cells"]`` of `wells`.

    Raises
    ------
    CellpipeDataError
        If a plate has fewer than two wells of negative controls, or files differ in model.
    """
    files = Embeddings.open_plates(embeddings)
    _check_same_model(files)
    plates = [_profile_plate(file, perturbation) for file in track(files, "Profiling")]
    table = pd.concat([plate for plate, _ in plates]).fillna(_missing_text([p for p, _ in plates]))
    features = list(files[0].features)
    uns = {
        UNS: files[0].provenance,
        "profile": {
            "normalisation": "standardize",
            "reference": schema.NEGCON,
            "perturbation": perturbation,
            "wells_without_cells": np.array(_without_cells(table, sites), dtype=str),
        },
    }
    raw = np.concatenate([means for _, means in plates])
    _write(wells, table, features, uns, layers={"raw": raw.astype(np.float32)})
    _write(perturbations, _consensus(table, features, perturbation), features, uns)


def _profile_plate(file: Embeddings, perturbation: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Wells of one plate: a table of obs columns and standardised features, and the raw means."""
    for column in (*WELL_KEY, schema.SITE, schema.PERT_TYPE, perturbation):
        if column not in file.obs:
            raise CellpipeDataError(
                f"plate {file.plate}: {file.path} has no column {column}; its Metadata columns are "
                f"{[name for name in file.obs if name.startswith('Metadata_')]}. "
                "Ingest the plate with a platemap"
            )
    means = _well_means(file)
    described = _describe_wells(file.obs).loc[means.index]
    check_controls(file.plate, described[schema.PERT_TYPE])
    features = list(file.features)
    controls = means[(described[schema.PERT_TYPE] == schema.NEGCON).to_numpy()]
    constant = int((controls.std() == 0).sum())
    if constant:
        log.warning("plate %s: %d features are constant over controls", file.plate, constant)
    standardised = normalize(
        pd.concat([described, means], axis=1),
        features=features,
        meta_features=list(described.columns),
        samples=f"{schema.PERT_TYPE} == '{schema.NEGCON}'",
        method="standardize",
    )
    log.info("plate %s: %d rows in %d wells", file.plate, len(file.obs), len(means))
    return standardised, means.to_numpy()


def check_controls(plate: str, types: pd.Series) -> None:
    """Raise CellpipeDataError unless `types`, one a well, hold enough negative controls."""
    count = int((types == schema.NEGCON).sum())
    if count < MINIMUM_CONTROLS:
        raise CellpipeDataError(
            f"plate {plate}: expected at least {MINIMUM_CONTROLS} wells with {schema.PERT_TYPE} "
            f"'{schema.NEGCON}' that hold cells, got {count} (types: {sorted(set(types))}). A "
            "plate is standardised on its own negative controls: mark them in the platemap, or "
            "leave the plate out"
        )
    if count < FEW_CONTROLS:
        log.warning("plate %s: only %d wells of negative controls", plate, count)


def _well_means(file: Embeddings) -> pd.DataFrame:
    """Mean embedding of every well, indexed by well; one well in memory at a time."""
    features = list(file.features)
    means = {}
    for well, rows in sorted(file.obs.groupby(schema.WELL).indices.items()):
        cells = pd.DataFrame(file.read(rows), columns=features)
        cells[schema.WELL] = well
        mean = aggregate(cells, strata=[schema.WELL], features=features, operation="mean")
        means[well] = mean[features].iloc[0]
    return pd.DataFrame.from_dict(means, orient="index", columns=features, dtype=np.float64)


def _describe_wells(obs: pd.DataFrame) -> pd.DataFrame:
    """Columns of obs that describe a well, indexed by well."""
    groups = obs.groupby(schema.WELL)
    metadata = [name for name in obs if name.startswith("Metadata_")]
    # What differs between the cells of a well describes a site or a cell.
    constant = (groups[metadata].nunique(dropna=False) <= 1).all()
    keep = [name for name in metadata if constant[name] or name == schema.WELL]
    keep = [name for name in keep if name not in (schema.SITE, schema.OBJECT)]
    wells = groups.head(1).set_index(schema.WELL, drop=False)[keep].rename_axis(None)

    of_site = obs.drop_duplicates([schema.WELL, schema.SITE]).groupby(schema.WELL)
    quality = [name for name in obs if name.startswith("QC_")]
    wells = wells.join(of_site[quality].mean())
    wells[COUNT_SITES] = of_site.size()
    if schema.CELL_COUNT in obs:
        wells[schema.CELL_COUNT] = of_site[schema.CELL_COUNT].sum()
    if schema.OBJECT in obs:
        wells[COUNT_CELLS] = groups.size()
    return wells


def _consensus(table: pd.DataFrame, features: list[str], perturbation: str) -> pd.DataFrame:
    """Mean over the wells of every perturbation, indexed by its name."""
    treated = table[table[perturbation].astype(str) != ""]
    means = consensus(
        treated, replicate_columns=[perturbation], operation="mean", features=features
    ).set_index(perturbation)
    groups = treated.groupby(perturbation)
    places = [*WELL_KEY, perturbation]
    metadata = [n for n in treated if n.startswith("Metadata_") and n not in places]
    described = groups[metadata].agg(lambda values: "|".join(sorted(set(values.astype(str)))))
    described.insert(0, perturbation, described.index)
    described[COUNT_WELLS] = groups.size()
    described["Count_Plates"] = groups[schema.PLATE].nunique()
    if COUNT_CELLS in treated:
        described[COUNT_CELLS] = groups[COUNT_CELLS].sum()
    return described.rename_axis(None).join(means)


def _write(
    path: Path,
    table: pd.DataFrame,
    features: list[str],
    uns: dict[str, Any],
    layers: dict[str, np.ndarray] | None = None,
) -> None:
    obs = table.drop(columns=features)
    if schema.WELL in obs:
        obs.index = pd.Index(obs[WELL_KEY].astype(str).agg("__".join, axis=1))
    text = obs.select_dtypes(["object", "string"]).columns
    data = anndata.AnnData(
        X=table[features].to_numpy(np.float32),
        obs=obs.astype(dict.fromkeys(text, "category")),
        var=pd.DataFrame(index=features),
        uns=uns,
        layers=layers,
    )
    with atomic_path(path) as temporary:
        data.write_h5ad(temporary)


def _check_same_model(files: Sequence[Embeddings]) -> None:
    if not files:
        raise CellpipeValueError("profile: expected at least one embeddings file, got none")
    first = files[0]
    for file in files[1:]:
        weights = [f.provenance.get("weights_sha256") for f in (first, file)]
        if file.features != first.features or weights[0] != weights[1]:
            raise CellpipeDataError(
                f"{first.path} and {file.path} are embeddings of two models "
                f"({len(first.features)} and {len(file.features)} dimensions, weights {weights}). "
                "Embed all plates with one model"
            )
    names = [file.plate for file in files]
    if len(set(names)) < len(names):
        raise CellpipeValueError(f"profile: a plate is given twice: {sorted(names)}")


def _missing_text(plates: Sequence[pd.DataFrame]) -> dict[str, str]:
    """Fill values for text columns that some plates have and others lack."""
    return {
        name: ""
        for plate in plates
        for name, column in plate.items()
        if not pd.api.types.is_numeric_dtype(column)
    }


def _without_cells(table: pd.DataFrame, sites: Sequence[Path]) -> list[str]:
    key = [schema.PLATE, schema.WELL]
    profiled = set(table[key].itertuples(index=False, name=None))
    missing = [
        f"{plate}__{well}"
        for path in sites
        for plate, well in sorted(
            set(pd.read_parquet(path, columns=key).itertuples(index=False, name=None)) - profiled
        )
    ]
    if missing:
        log.warning("%d wells hold no cell and get no profile: %s", len(missing), missing)
    return missing
