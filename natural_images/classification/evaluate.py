"""How good a classifier is on labelled images: accuracy, loss, calibration, confusions, speed."""

import json
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch

from fastvim.files import atomic_path
from natural_images.classification.architectures import check_size
from natural_images.classification.augment import Augment, eval_transform
from natural_images.classification.confused import accuracy_by_class, confused_pairs, draw_confused
from natural_images.classification.images import ImageSource, open_images
from natural_images.classification.model_files import (
    ModelInfo,
    Weights,
    describe_class,
    imagenet_ids,
    load_model,
)
from natural_images.classification.predict import Images, Loading, Precision, predict, runner
from natural_images.classification.quarantine import write_quarantine
from natural_images.classification.reliability import draw_reliability, reliability
from natural_images.errors import NaturalImagesDataError, NaturalImagesValueError

log = logging.getLogger(__name__)

VERSION = 1


def evaluate(
    model_path: Path,
    data: Path,
    *,
    output: Path,
    split: Literal["train", "val"] = "val",
    size: int | None = None,
    crop: float | None = None,
    weights: Weights = "plain",
    precision: Precision = "float32",
    batch_size: int = 64,
    limit: int | None = None,
    restrict: bool = True,
    workers: int = 0,
    model_options: Mapping[str, Any] | None = None,
    device: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluate a classifier on a folder of images and write what was found into `output`.

    Parameters
    ----------
    model_path
        A model folder of training, or a published checkpoint file.
    data
        Any layout of `natural_images.classification.images.open_images`. Its classes are matched
        with the model's by name, else as `match_classes` says: by number (ImageNet-V2), or, where a
        model knows ImageNet by numbers or words, by WordNet id (ImageNet-A, -R).
    output
        Folder for ``metrics.json``; ``predictions.parquet`` (``name``, ``label`` and the five best
        ``class_k`` with ``probability_k``); ``classes.csv`` (accuracy of each class, and what it is
        taken for); ``quarantine.csv`` (images that did not decode); ``reliability.png``;
        ``confused.png``.
    size, crop
        Side of the model's input in px, and the part of the shorter side that the middle crop
        keeps; by default as trained, and for a published checkpoint file as published: 0.875 up to
        224 px, all beyond.
    limit
        Take this many images, drawn with `seed`, for a quick look.
    restrict
        Choose only among the classes that `data` has, as is customary for ImageNet-A and
        ImageNet-R; without, among all that the model knows.
    workers
        Processes that decode; 0 decodes here.
    model_options
        Of the model in a published checkpoint file, as `fastvim.load_published` takes them, for
        what the file does not tell: ``{"scaling_factor": 0.25}`` of a FastVim fine-tuned after MAE.
    device
        By default "cuda" where there is one.

    Returns
    -------
    dict
        What ``metrics.json`` holds: ``top1``, ``top5`` (null for five classes or fewer), ``loss``
        (nats), ``expected_calibration_error``, each over all images that decoded; ``images_per_s``
        of the model alone and ``images_per_s_with_loading``; and what was evaluated on what.

    Raises
    ------
    NaturalImagesValueError, NaturalImagesDataError
        Where an option, the model or the data do not serve.
    """
    _check(precision=precision, batch_size=batch_size, limit=limit, workers=workers)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model, info = load_model(model_path, weights=weights, device=device, options=model_options)
    source = open_images(data, split=split)
    columns = match_classes(info.classes, source.classes, where=str(data))
    size = info.size if size is None else size
    check_size(model, size, "size")
    augment = Augment(
        eval_crop=info.crop_at(size) if crop is None else crop,
        interpolation=info.interpolation,
        mean=info.mean,
        std=info.std,
    )
    set_size = getattr(model, "set_input_size", None)
    if size != info.size and set_size is not None:  # timm's way to resize positions
        set_size(img_size=size)
    indices = _choose(len(source), limit, seed)
    started = time.monotonic()
    found = predict(
        runner(model, device, precision),
        Images(source, indices, eval_transform(augment, size)),
        columns=columns if restrict else np.arange(len(info.classes)),
        labels=columns[source.labels],
        augment=augment,
        loading=Loading(batch_size, workers, device),
    )
    table = found.table(source, info.classes)
    metrics: dict[str, Any] = {
        "version": VERSION,
        "model": str(model_path),
        "architecture": info.architecture,
        "parameters": info.parameters,
        "weights": weights,
        "weights_sha256": info.weights_sha256,
        "model_options": dict(model_options or {}),
        "data": str(data),
        "split": split,
        "images": len(table),
        "images_not_decoded": len(found.bad),
        "images_available": len(source),
        "classes": len(source.classes),
        "classes_to_choose_from": len(columns) if restrict else len(info.classes),
        "size_px": size,
        "crop": augment.eval_crop,
        "precision": precision,
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        **found.scores(table),
        "images_per_s_with_loading": round(len(table) / (time.monotonic() - started), 1),
    }
    _write(Path(output), metrics, table, found.bad, source, info)
    log.info(
        "%s on %d images: top-1 %.2f %%, top-5 %s, loss %.4f, %.0f images/s",
        model_path,
        len(table),
        100 * metrics["top1"],
        "not asked" if metrics["top5"] is None else f"{metrics['top5']:.2%}",
        metrics["loss"],
        metrics["images_per_s"],
    )
    return metrics


def match_classes(model: Sequence[str], data: Sequence[str], *, where: str = "data") -> np.ndarray:
    """The model's class of each class of the data, (class,) int64.

    By name; where the model does not know the names and all are numbers below its number of
    classes, as in ImageNet-V2's folders, they are places in its order. So are as many names in
    words, of which nearly all are what the model's WordNet ids are called: ImageNet in Parquet.
    A model whose own classes are ImageNet's 1000 in numbers, as it learns them from WebDataset, or
    in words, as from Parquet, is asked by their WordNet ids.

    Raises NaturalImagesDataError that names the classes the model does not know.
    """
    if list(data) == list(model):
        # Names in words may come twice: two of ImageNet's classes are called "crane".
        return np.arange(len(model))
    if set(data) <= set(model):
        twice = [name for name, count in Counter(model).items() if count > 1 and name in data]
        if twice:
            raise NaturalImagesDataError(
                f"{where}: expected classes that the model tells apart, got {twice}, which it has "
                "twice. Name the folders by their WordNet ids"
            )
        return _places(model, data)
    if all(name.isdecimal() and int(name) < len(model) for name in data):
        return np.array([int(name) for name in data], np.int64)
    if _is_imagenet(model):
        model = imagenet_ids()
    known = set(model)
    unknown = [name for name in data if name not in known]
    if not unknown:
        return _places(model, data)
    if _in_words(data, model):
        return np.arange(len(model))
    raise NaturalImagesDataError(
        f"{where}: expected classes that the model knows ({', '.join(model[:3])}, … "
        f"{len(model)} in all), got {', '.join(unknown[:5])}"
        f"{f' and {len(unknown) - 5} more' if len(unknown) > 5 else ''}. "
        "Name the class folders as in training, or by their places 0, 1, …"
    )


def _places(model: Sequence[str], data: Sequence[str]) -> np.ndarray:
    known = {name: place for place, name in enumerate(model)}
    return np.array([known[name] for name in data], np.int64)


def _is_imagenet(names: Sequence[str]) -> bool:
    """Whether these are ImageNet's 1000 classes, in order, by other names than their ids."""
    ids = imagenet_ids()
    return list(names) == [str(number) for number in range(len(ids))] or _in_words(names, ids)


def _in_words(names: Sequence[str], ids: Sequence[str]) -> bool:
    """Whether nearly all `names` are the first words for the WordNet id at the same place."""
    if len(names) != len(ids):
        return False
    same = sum(
        describe_class(wnid) != wnid
        and describe_class(wnid).casefold() == name.split(",")[0].strip().casefold()
        for name, wnid in zip(names, ids, strict=True)
    )
    return same > 0.9 * len(ids)


def _check(*, precision: str, batch_size: int, limit: int | None, workers: int) -> None:
    if precision not in get_args(Precision):
        raise NaturalImagesValueError(
            f"precision: expected one of {[*get_args(Precision)]}, got {precision!r}"
        )
    for key, value, least in (
        ("batch_size", batch_size, 1),
        ("limit", limit, 1),
        ("workers", workers, 0),
    ):
        if value is not None and value < least:
            raise NaturalImagesValueError(f"{key}: expected at least {least}, got {value}")


def _choose(count: int, limit: int | None, seed: int) -> np.ndarray:
    """Places to look at, ascending; not simply the first, which are all of one class."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


def _write(
    output: Path,
    metrics: dict[str, Any],
    table: pd.DataFrame,
    bad: Sequence[tuple[int, str]],
    source: ImageSource,
    info: ModelInfo,
) -> None:
    """Write everything; ``metrics.json`` last, so that it stands for the rest."""
    if bad:
        log.warning("%d images could not be decoded: %s", len(bad), output / "quarantine.csv")
    write_quarantine(output / "quarantine.csv", source, bad)
    with atomic_path(output / "predictions.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    with atomic_path(output / "classes.csv") as temporary:
        accuracy_by_class(table).to_csv(temporary, index=False, float_format="%.6g")
    right = (table["label"] == table["class_1"]).to_numpy()
    title = f"{info.architecture}, {metrics['weights']} weights, {metrics['size_px']} px"
    draw_reliability(
        reliability(table["probability_1"].to_numpy(), right),
        output=output / "reliability.png",
        title=title,
    )
    draw_confused(
        confused_pairs(table),
        source,
        output=output / "confused.png",
        title=f"{title}: most frequent confusions, the surest mistakes first",
    )
    with atomic_path(output / "metrics.json") as temporary:
        temporary.write_text(json.dumps(metrics, indent=1, allow_nan=False) + "\n")
