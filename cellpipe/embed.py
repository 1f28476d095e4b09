"""Embed the cells or the whole fields of plates with a trained model."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate.utils import find_executable_batch_size
from rich.progress import Progress
from torch import Tensor

from cellpipe import schema
from cellpipe.corrected import CorrectedPlate
from cellpipe.crop_store import CropStore
from cellpipe.embedding_file import write_embeddings
from cellpipe.errors import CellpipeValueError
from cellpipe.pixel_statistics import PixelStatistics, PixelSums
from cellpipe.plate import Plate
from cellpipe.trained_model import ChannelMatch, TrainedModel
from fastvim import FastChannelVim
from fastvim.graphed import Graphed
from fastvim.training.prefetch import prefetch

log = logging.getLogger(__name__)

TOKENS_PER_BATCH = {"cpu": 2**16, "cuda": 2**20}
"""Tokens (channels x patches) in the first batch that is tried; fewer while memory is short."""

PRODUCTS = {"cpu": torch.float32, "cuda": torch.bfloat16}
"""Precision of matrix products; the rest of the arithmetic, and what is written, is float32."""

FIELDS_FOR_STATISTICS = 64

Reader = Callable[[np.ndarray], np.ndarray]
"""Rows to scaled pixels: (row,) -> (row, channel, y, x) float32."""

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Pixels (row, channel, y, x) to embeddings (row, dimension) and (row, channel, dimension)."""


def embed(
    inputs: Sequence[Path],
    *,
    model: Path,
    output: Path,
    mode: str = "cells",
    illumination: Sequence[Path] = (),
    overwrite: bool = False,
) -> None:
    """Embed many plates with one model: `output`/<plate>.h5ad for each.

    A GPU is used where there is one. Its matrix products are bfloat16, a CPU's float32, so that the
    embeddings differ a little; ``uns`` says which they are.

    Parameters
    ----------
    inputs
        Crop stores for mode ``cells``, site tables for mode ``fields``.
    illumination
        For mode ``fields``: the flat fields, one a site table in the same order.
    overwrite
        Embed plates again whose file exists; otherwise they are skipped, so that a killed run over
        many plates goes on where it stopped.
    """
    if mode == "fields" and len(illumination) != len(inputs):
        raise CellpipeValueError(
            f"embed --mode fields: expected one --illumination for each of {len(inputs)} site "
            f"tables, got {len(illumination)}"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trained = TrainedModel.load(model, device)
    for index, path in enumerate(inputs):
        name = path.name.removesuffix(".crops.zarr").removesuffix(".sites.parquet")
        target = output / f"{name}.h5ad"
        if target.exists() and not overwrite:
            log.info("%s exists already; --overwrite embeds it again", target)
        elif mode == "fields":
            embed_fields(path, illumination=illumination[index], model=trained, output=target)
        else:
            embed_cells(path, model=trained, output=target)


def embed_cells(crops: Path, *, model: TrainedModel, output: Path) -> None:
    """Embed every cell of a crop store; writes the AnnData contract to `output` (``.h5ad``)."""
    store = CropStore.open(crops)
    match = _matched(model, store.channels, str(crops))
    plate_indices = np.array(match.plate)
    statistics = model.statistics(match, store.statistics)
    obs = store.cells.set_index("cell_id").drop(columns=["site_row", "edge"])
    _embed(
        lambda rows: statistics.scale(store.read(rows, plate_indices)),
        obs,
        size=(store.array.shape[2], store.array.shape[3]),
        model=model,
        match=match,
        output=output,
        provenance={
            "mode": "cells",
            "pixel_size_um": store.pixel_size_um,
            "normalisation": asdict(statistics),
        },
    )


def embed_fields(sites: Path, *, illumination: Path, model: TrainedModel, output: Path) -> None:
    """Embed every field of a plate in one piece; no segmentation is needed."""
    plate = Plate.open(sites)
    corrected = CorrectedPlate.open(sites, illumination)
    match = _matched(model, plate.channels, f"plate {plate.name}")
    shapes = plate.sites[["height", "width"]].drop_duplicates().to_numpy()
    if len(shapes) > 1:
        raise CellpipeValueError(
            f"plate {plate.name} has fields of several sizes {shapes.tolist()}, which cannot share "
            "a batch. Ingest them as plates of their own"
        )
    statistics = model.statistics(match, _field_statistics(corrected))
    obs = plate.sites.filter(regex="^(Metadata|QC)_")
    key = plate.sites[list(schema.SITE_KEY)].astype(str).agg("__".join, axis=1)
    _embed(
        lambda rows: statistics.scale(
            np.stack([corrected.read(int(row), match.names) for row in rows])
        ),
        obs.set_index(pd.Index(key)),
        size=(int(shapes[0, 0]), int(shapes[0, 1])) if len(shapes) else (1, 1),
        model=model,
        match=match,
        output=output,
        provenance={
            "mode": "fields",
            "pixel_size_um": plate.pixel_size_um,
            "normalisation": asdict(statistics),
        },
    )


def _field_statistics(corrected: CorrectedPlate) -> PixelStatistics:
    """Statistics of a plate's pixels from fields spread over it."""
    count = len(corrected.plate.sites)
    sums = PixelSums(len(corrected.plate.channels))
    for row in np.unique(np.linspace(0, count - 1, min(count, FIELDS_FOR_STATISTICS)).astype(int)):
        sums.add(corrected.read(int(row))[None])
    return sums.statistics()


def _matched(model: TrainedModel, channels: tuple[str, ...], where: str) -> ChannelMatch:
    match = model.match_channels(channels, where=where)
    if match.missing:
        log.warning("%s lacks channels %s; embedding without them", where, list(match.missing))
    if match.unknown:
        log.warning("%s has channels %s that the model does not know", where, list(match.unknown))
    return match


def _embed(
    read: Reader,
    obs: pd.DataFrame,
    *,
    size: tuple[int, int],
    model: TrainedModel,
    match: ChannelMatch,
    output: Path,
    provenance: dict[str, Any],
) -> None:
    device = next(model.model.parameters()).device
    patches = int(np.prod([-(-side // model.model.patch_size) for side in size]))
    first = max(1, TOKENS_PER_BATCH[device.type] // (patches * len(match.names)))

    @find_executable_batch_size(starting_batch_size=min(first, max(1, len(obs))))
    def run(batch_size: int) -> None:
        # as few batches as can be, whose sizes differ by one row at most
        count = -(-len(obs) // batch_size)
        batches = np.array_split(np.arange(len(obs)), count) if count else []
        rows = len(batches[0]) if batches else 0
        log.info("%s: %d rows in batches of %d on %s", output.name, len(obs), rows, device)
        forward = forward_on(device, model.model, match.model, rows=rows)
        with (
            write_embeddings(
                output,
                obs,
                dimension=model.model.embed_dim,
                channels=match.names,
                provenance=_provenance(model, match, device) | provenance,
            ) as file,
            Progress() as progress,
        ):
            task = progress.add_task(f"Embedding {output.stem}", total=len(obs))
            # One thread: it reads the next batch while the model works on this one.
            for pixels in prefetch(read, batches, workers=1):
                pooled, per_channel = forward(torch.from_numpy(pixels).to(device))
                file.append(pooled.float().cpu().numpy(), per_channel.float().cpu().numpy())
                progress.advance(task, len(pixels))

    run()


def forward_on(
    device: torch.device, model: FastChannelVim, channels: Sequence[int], *, rows: int
) -> Forward:
    """What embeds batches of at most `rows` images of the model's `channels` on its device.

    On a GPU it is a CUDA graph of that many rows, to which smaller batches are filled up.
    """
    index = torch.tensor(channels, device=device)

    def call(model: FastChannelVim, batch: Tensor) -> tuple[Tensor, Tensor]:
        return model.embed(batch, index)

    if device.type != "cuda":
        return torch.inference_mode()(partial(call, model))
    # a plate of one or two batches would not repay a recording
    return filled_up(Graphed(model, call, dtype=PRODUCTS["cuda"], plain_calls=2), rows)


def filled_up(forward: Forward, rows: int) -> Forward:
    """Let `forward` see batches of exactly `rows` rows, and cut its results to those given."""

    def run(batch: Tensor) -> tuple[Tensor, Tensor]:
        given = len(batch)
        if given < rows:
            batch = torch.cat([batch, batch.new_zeros(rows - given, *batch.shape[1:])])
        pooled, per_channel = forward(batch)
        return pooled[:given], per_channel[:given]

    return run


def _provenance(model: TrainedModel, match: ChannelMatch, device: torch.device) -> dict[str, Any]:
    packages = ("fastvim-cells", "torch", "zarr", "anndata")
    return {
        "weights_sha256": model.weights_sha256,
        "configuration": json.dumps(asdict(model.preprocessing)),
        "channels": list(match.names),
        "missing_channels": list(match.missing),
        "unknown_channels": list(match.unknown),
        "matrix_products": str(PRODUCTS[device.type]).removeprefix("torch."),
        "versions": {name: version(name) for name in packages},
    }
