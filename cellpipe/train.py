"""Train a FastChannelVim on crops to tell the classes of a split apart."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellpipe.augment import Augmentation
from cellpipe.crop_store import CropStore
from cellpipe.errors import CellpipeDataError, CellpipeValueError
from cellpipe.pixel_statistics import PixelStatistics, PixelSums
from cellpipe.split import Split
from cellpipe.trained_model import Preprocessing, save_trained
from fastvim import FastChannelVim, create_model
from fastvim.training import Recipe, fit

log = logging.getLogger(__name__)

CELLS_FOR_STATISTICS = 2000
"""Training crops over which the pixel statistics are taken."""


@dataclass(frozen=True)
class CropSamples:
    """Crops of one part of a split, over all plates, as the training engine reads them.

    `channels` and `statistics`, one a store, pick its channels and scale its pixels; `where` holds
    (store, row) of every sample, `classes` its class index.
    """

    stores: Sequence[CropStore]
    channels: Sequence[np.ndarray]
    statistics: Sequence[PixelStatistics]
    where: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.where)

    def get_batch(self, indices: np.ndarray, seed: int = 0) -> dict[str, Tensor]:
        """Scaled crops (batch, channel, y, x) float32 and classes (batch,) int64.

        Crops are read as they are, whatever the seed; augmentation is of whole batches.
        """
        where = self.where[indices]
        crops: np.ndarray | None = None
        for number, store in enumerate(self.stores):
            places = np.flatnonzero(where[:, 0] == number)
            if not len(places):
                continue
            read = store.read(where[places, 1], self.channels[number])
            if crops is None:
                crops = np.empty((len(indices), *read.shape[1:]), np.float32)
            crops[places] = self.statistics[number].scale(read)
        return {
            "crops": torch.from_numpy(crops),
            "classes": torch.from_numpy(self.classes[indices]),
        }


def train(
    crops: Sequence[Path],
    *,
    split: Path,
    output: Path,
    checkpoints: Path,
    architecture: str = "fastchannelvim_small_patch16",
    scale: str = "plate",
    model_options: Mapping[str, Any] | None = None,
    recipe_options: Mapping[str, Any] | None = None,
    augment_options: Mapping[str, Any] | None = None,
) -> None:
    """Train a model and write its folder; a killed run resumes from `checkpoints`.

    Parameters
    ----------
    crops
        Crop stores of the plates; their channels are matched by name and must be the same.
    split
        Names each cell's class and part; only train and val are read here.
    output
        The model folder; appears when training has ended.
    checkpoints
        Folder of checkpoints and curves.
    scale
        ``plate`` scales the pixels of every plate by its own mean and standard deviation,
        ``training`` all plates by those of the training crops, as the published models do.
    architecture, model_options
        Name of a FastChannelVim and options of its constructor; channels, classes and image size
        come from the data.
    recipe_options, augment_options
        Fields of `fastvim.training.Recipe` and of `cellpipe.augment.Augmentation`.
    """
    recipe = _build(Recipe, "train.recipe", recipe_options)
    augmentation = _build(Augmentation, "train.augment", augment_options)
    stores = [CropStore.open(path) for path in crops]
    _check_alike(stores)
    chosen = Split.read(split)
    statistics = None
    if scale == "training":
        statistics = _training_statistics(stores, chosen, recipe.seed)
    elif scale != "plate":
        raise CellpipeValueError(f"train.scale: expected 'plate' or 'training', got {scale!r}")
    parts = {part: _samples(stores, chosen, part, statistics) for part in ("train", "val")}
    if not len(parts["train"]):
        raise CellpipeDataError(f"{split}: none of the cells in {list(map(str, crops))} train")
    preprocessing = Preprocessing(
        channels=stores[0].channels,
        mean=tuple(statistics.mean.tolist()) if statistics else (),
        std=tuple(statistics.std.tolist()) if statistics else (),
        labels=chosen.labels,
        size_px=stores[0].array.shape[-1],
        pixel_size_um=stores[0].pixel_size_um,
        split=chosen.name,
    )
    identity = _identity(split, stores, augmentation, preprocessing)
    torch.manual_seed(recipe.seed)
    model = _create(architecture, model_options or {}, preprocessing)
    log.info(
        "%s: %d parameters, %d training and %d validation cells, %d classes, %d channels",
        architecture,
        sum(parameter.numel() for parameter in model.parameters()),
        len(parts["train"]),
        len(parts["val"]),
        len(chosen.labels),
        len(preprocessing.channels),
    )
    # Of several processes only the main one is told where the last checkpoint lies.
    identity["model"] = json.dumps(model.options, sort_keys=True)
    try:
        last = _fit(model, parts, recipe, augmentation, identity, checkpoints)
    except (ValueError, FloatingPointError) as error:
        raise CellpipeValueError(f"train: {error}") from error
    if last is not None:
        save_trained(model, preprocessing, output)


def _build(kind: type, key: str, options: Mapping[str, Any] | None) -> Any:
    try:
        return kind(**(options or {}))
    except (TypeError, ValueError) as error:
        known = list(kind.__dataclass_fields__)  # type: ignore[attr-defined]
        raise CellpipeValueError(f"{key}: {error}. It knows {known}") from error


def _create(
    architecture: str, options: Mapping[str, Any], preprocessing: Preprocessing
) -> FastChannelVim:
    try:
        model = create_model(
            architecture,
            in_chans=len(preprocessing.channels),
            num_classes=len(preprocessing.labels),
            img_size=preprocessing.size_px,
            **options,
        )
    except (TypeError, ValueError) as error:
        raise CellpipeValueError(f"train.architecture or train.model: {error}") from error
    if not isinstance(model, FastChannelVim):
        raise CellpipeValueError(f"train.architecture: {architecture} is no FastChannelVim")
    return model


def _check_alike(stores: Sequence[CropStore]) -> None:
    """Plates that train together show the same channels at the same scale."""
    first = stores[0]
    for store in stores[1:]:
        for what, mine, theirs in (
            ("channels", sorted(store.channels), sorted(first.channels)),
            ("crop size", store.array.shape[-1], first.array.shape[-1]),
            ("pixel size", store.pixel_size_um, first.pixel_size_um),
        ):
            if mine != theirs:
                raise CellpipeDataError(
                    f"{store.path}: expected the {what} of {first.path}, {theirs}, got {mine}. "
                    "Train plates that differ in it apart"
                )


def _identity(
    split: Path,
    stores: Sequence[CropStore],
    augmentation: Augmentation,
    preprocessing: Preprocessing,
) -> dict[str, str]:
    """What makes a training this one and no other, beside recipe and shapes: data and options."""
    data = hashlib.sha256(split.read_bytes())
    for store in stores:
        data.update(store.statistics.mean.tobytes() + store.statistics.std.tobytes())
        data.update("".join(store.cells["cell_id"]).encode())
    return {
        "data": data.hexdigest(),
        "preprocessing": json.dumps(asdict(preprocessing)),
        "augmentation": repr(augmentation),
    }


def _samples(
    stores: Sequence[CropStore], split: Split, part: str, statistics: PixelStatistics | None
) -> CropSamples:
    """Samples of a part, scaled by `statistics` or by each store's own."""
    channels = stores[0].channels
    chosen = split.cells[split.cells["split"] == part].set_index("cell_id")["label"]
    position = {label: index for index, label in enumerate(split.labels)}
    where, classes = [], []
    for number, store in enumerate(stores):
        ids = store.cells["cell_id"]
        rows = np.flatnonzero(ids.isin(chosen.index))
        where.append(np.stack([np.full(len(rows), number), rows], axis=1))
        classes.append(chosen.loc[ids.iloc[rows]].map(position).to_numpy(np.int64))
    order = [store.channel_indices(channels) for store in stores]
    own = [store.statistics.take(index) for store, index in zip(stores, order, strict=True)]
    return CropSamples(
        stores=stores,
        channels=order,
        statistics=[statistics] * len(stores) if statistics else own,
        where=np.concatenate(where),
        classes=np.concatenate(classes),
    )


def _training_statistics(stores: Sequence[CropStore], split: Split, seed: int) -> PixelStatistics:
    channels = len(stores[0].channels)
    unscaled = PixelStatistics(np.zeros(channels), np.ones(channels))
    samples = _samples(stores, split, "train", unscaled)
    chosen = np.random.default_rng(seed).permutation(len(samples))[:CELLS_FOR_STATISTICS]
    sums = PixelSums(channels)
    for block in np.array_split(np.sort(chosen), max(1, len(chosen) // 100)):
        if len(block):
            sums.add(samples.get_batch(block)["crops"].numpy())
    return sums.statistics()


def _fit(
    model: FastChannelVim,
    parts: Mapping[str, CropSamples],
    recipe: Recipe,
    augmentation: Augmentation,
    identity: Mapping[str, str],
    directory: Path,
) -> Path | None:
    """Train in place; returns the last checkpoint on the main process, None on the others."""

    def augment(batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        return {**batch, "crops": augmentation(batch["crops"], generator)}

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        logits = model(batch["crops"])
        right = (logits.argmax(dim=1) == batch["classes"]).float().mean()
        return F.cross_entropy(logits.float(), batch["classes"]), {"accuracy": right}

    def validate(model: nn.Module) -> dict[str, float]:
        samples = parts["val"]
        device = next(model.parameters()).device
        losses, right = 0.0, 0
        for block in _blocks(len(samples), recipe.batch_size):
            batch = samples.get_batch(block)
            classes = batch["classes"].to(device)
            logits = model(batch["crops"].to(device)).float()
            losses += float(F.cross_entropy(logits, classes, reduction="sum"))
            right += int((logits.argmax(dim=1) == classes).sum())
        return {"loss": losses / len(samples), "accuracy": right / len(samples)}

    return fit(
        model,
        parts["train"],
        recipe,
        loss=loss,
        directory=directory,
        validate=validate if len(parts["val"]) else None,
        on_batch=augment,
        identity=identity,
    )


def _blocks(count: int, size: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]
