"""What a classifier answers to labelled images, and how fast."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fastvim.graphed import Graphed
from fastvim.pretrained import Pretrained
from natural_images.classification.augment import Augment, Transform, normalise
from natural_images.classification.images import BadImage, ImageSource
from natural_images.classification.reliability import reliability
from natural_images.errors import NaturalImagesDataError

log = logging.getLogger(__name__)

BEST = 5
WARM_UP_BATCHES = 2
"""Batches at the start that compile and record, and so do not count for the speed."""

SECONDS_BETWEEN_LINES = 30.0

Precision = Literal["float32", "bfloat16"]

_Batch = tuple[list[int], Tensor | None, list[tuple[int, str]]]


@dataclass(frozen=True)
class Images(Dataset[tuple[int, Tensor | str]]):
    """Images to decode in any process: the place in the source, and pixels or what is wrong.

    indices
        (n,) places in `source`.
    """

    source: ImageSource
    indices: np.ndarray
    transform: Transform

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> tuple[int, Tensor | str]:
        place = int(self.indices[number])
        try:
            return place, self.transform(self.source.read(place))
        except BadImage as bad:
            return place, bad.reason


@dataclass(frozen=True)
class Loading:
    """How batches come to the device.

    workers
        Processes that decode; 0 decodes here.
    """

    batch_size: int
    workers: int
    device: str

    def batches(self, images: Images) -> DataLoader[Any]:
        """Batches of the places, the pixels (b, 3, h, w) uint8 and what did not decode.

        The pixels are None where nothing of a batch decoded; places that did not come with why.
        """
        return DataLoader(
            images,
            batch_size=self.batch_size,
            num_workers=self.workers,
            collate_fn=_collate,
            # a fork of a process with CUDA and threads may hang
            multiprocessing_context="forkserver" if self.workers else None,
            pin_memory=self.device.startswith("cuda"),
        )


@dataclass(frozen=True)
class Found:
    """Answers to n images.

    places, labels
        (n,) int64, where an image is in the source and its class, as the model counts classes.
    losses
        (n,) float32, cross entropy in nats.
    best, probabilities
        (n, k) the surest classes, as the model counts them, and how sure; the surest first.
    bad
        Places of images that did not decode, and why.
    images_per_s
        Of the model alone.
    choices
        How many classes there were to choose from.
    """

    places: np.ndarray
    labels: np.ndarray
    losses: np.ndarray
    best: np.ndarray
    probabilities: np.ndarray
    bad: list[tuple[int, str]]
    images_per_s: float
    choices: int

    def table(self, source: ImageSource, classes: Sequence[str]) -> pd.DataFrame:
        """One row an image, by its place in the source."""
        names = np.array(classes, object)
        columns: dict[str, Any] = {
            "name": [source.name(int(place)) for place in self.places],
            "label": names[self.labels],
        }
        for rank in range(self.best.shape[1]):
            columns[f"class_{rank + 1}"] = names[self.best[:, rank]]
            columns[f"probability_{rank + 1}"] = self.probabilities[:, rank]
        return pd.DataFrame(columns, index=self.places)

    def scores(self, table: pd.DataFrame) -> dict[str, float | None]:
        """Accuracy, loss, calibration and speed, from the answers and their `table`."""
        right = self.best == self.labels[:, None]
        calibration = reliability(table["probability_1"].to_numpy(), right[:, 0])
        return {
            "top1": float(right[:, 0].mean()),
            "top5": float(right.any(axis=1).mean()) if self.choices > BEST else None,
            "loss": float(self.losses.mean(dtype=np.float64)),
            "expected_calibration_error": calibration.expected_calibration_error,
            "images_per_s": round(self.images_per_s, 1),
        }


def runner(model: nn.Module, device: str, precision: Precision) -> Callable[[Tensor], Tensor]:
    """Make what gives logits (b, class) float32 of normalised images (b, 3, h, w) on `device`.

    On a GPU, models of fastvim are recorded as CUDA graphs.
    """
    dtype = getattr(torch, precision)
    kind = torch.device(device).type
    if kind == "cuda" and isinstance(model, Pretrained):
        graphed = Graphed(model, dtype=dtype)
        return lambda images: graphed(images).float()

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast(kind, dtype, enabled=precision != "float32"):
            return model(images).float()

    return run


def predict(
    run: Callable[[Tensor], Tensor],
    images: Images,
    *,
    columns: np.ndarray,
    labels: np.ndarray,
    augment: Augment,
    loading: Loading,
) -> Found:
    """Answer all images.

    Parameters
    ----------
    run
        From normalised images (b, 3, h, w) to logits (b, class), as `runner` makes it.
    columns
        (choice,) int64, classes of the model to choose from.
    labels
        (image,) int64, the model's class of every image of the source.

    Raises
    ------
    NaturalImagesDataError
        No image decodes, or the model's logits are not finite.
    """
    device = torch.device(loading.device)
    chosen = torch.from_numpy(columns).to(device)
    row = {int(column): place for place, column in enumerate(columns)}
    kept: list[int] = []
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    bad: list[tuple[int, str]] = []
    speeds: list[tuple[int, float]] = []
    for places, pixels, undecoded in _shown(loading.batches(images), len(images)):
        bad += undecoded
        if pixels is None:
            continue
        batch = normalise(pixels.to(device, non_blocking=True), augment)
        _wait(device)
        started = time.perf_counter()
        logits = run(batch)
        _wait(device)
        speeds.append((len(places), time.perf_counter() - started))
        if not logits.isfinite().all():
            raise NaturalImagesDataError(
                f"{images.source.name(places[0])} or one of the {len(places) - 1} images after it: "
                "expected finite logits of the model, got NaN or infinity. Its training diverged, "
                "or needs float32"
            )
        logits = logits[:, chosen]
        targets = torch.tensor([row[int(labels[place])] for place in places], device=device)
        loss = F.cross_entropy(logits, targets, reduction="none")
        top = logits.softmax(dim=1).topk(min(BEST, len(columns)), dim=1)
        kept += places
        parts.append((loss.cpu(), top.indices.cpu(), top.values.cpu()))
    if not parts:
        raise NaturalImagesDataError(
            f"none of {len(images)} images could be decoded. The first reason: "
            f"{images.source.name(bad[0][0])}: {bad[0][1]}"
        )
    losses, best, probabilities = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    counted = speeds[WARM_UP_BATCHES:] or speeds
    return Found(
        places=np.array(kept, np.int64),
        labels=labels[kept],
        losses=losses,
        best=columns[best],
        probabilities=probabilities,
        bad=bad,
        images_per_s=sum(count for count, _ in counted) / sum(spent for _, spent in counted),
        choices=len(columns),
    )


def _collate(items: Sequence[tuple[int, Tensor | str]]) -> _Batch:
    good = [(place, pixels) for place, pixels in items if isinstance(pixels, Tensor)]
    bad = [(place, reason) for place, reason in items if isinstance(reason, str)]
    images = torch.stack([pixels for _, pixels in good]) if good else None
    return [place for place, _ in good], images, bad


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _shown(batches: DataLoader[Any], count: int) -> Any:
    """Iterate with a progress bar on a terminal, and a line now and then in a log file."""
    console = Console(stderr=True)
    done, last_line = 0, time.monotonic()
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("evaluating", total=count)
        for batch in batches:
            yield batch
            seen = len(batch[0]) + len(batch[2])
            done += seen
            progress.advance(task, seen)
            if not console.is_terminal and time.monotonic() - last_line > SECONDS_BETWEEN_LINES:
                log.info("evaluated %d of %d images", done, count)
                last_line = time.monotonic()
