"""Loading published checkpoints, into the model that they hold or into another one."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from fastvim.channel_model import ChannelVim, FastChannelVim
from fastvim.classifier import FastVim, Vim
from fastvim.dense import DenseFastVim, DenseVim
from fastvim.masked_autoencoder import FastMaskVim, MaskVim
from fastvim.positions import class_place, resize_positions
from fastvim.pretrained import Pretrained
from fastvim.published_file import Family, PublishedFile, Task, open_published

CLASSES: dict[tuple[Family, Task], type[Pretrained]] = {
    ("fastvim", "classifier"): FastVim,
    ("fastvim", "dense"): DenseFastVim,
    ("fastvim", "channels"): FastChannelVim,
    ("fastvim", "pretraining"): FastMaskVim,
    ("vim", "classifier"): Vim,
    ("vim", "dense"): DenseVim,
    ("vim", "channels"): ChannelVim,
    ("vim", "pretraining"): MaskVim,
}

KEPT_BY_MASKING = 0.25
"""Part of the tokens that the published pre-training kept, and so the size of its pooled tokens."""


@dataclass(frozen=True)
class LoadReport:
    """What became of a checkpoint.

    path, entry
        The file, and which of its entries was taken; "" is the whole file.
    model
        Name of the model's class.
    missing
        The model's tensors that the file lacks, or holds for another number of classes or another
        size of patches. They keep their initial values.
    unexpected
        The file's tensors that the model has no use for.
    outside
        Names in the file that do not belong to the backbone: heads of segmentation and detection,
        copies of the weights.
    """

    path: Path
    entry: str
    model: str
    missing: list[str]
    unexpected: list[str]
    outside: list[str]

    def __str__(self) -> str:
        def listed(names: list[str]) -> str:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            return ", ".join(names[:8]) + more if names else "none"

        return (
            f"{self.path}{f' [{self.entry}]' if self.entry else ''} as {self.model}; "
            f"missing, so at their initial values: {listed(self.missing)}; "
            f"unexpected, so not used: {listed(self.unexpected)}; "
            f"outside the backbone: {listed(self.outside)}"
        )


def load_published(
    path: str | Path,
    *,
    into: Task | None = None,
    family: Family | None = None,
    ema: bool = True,
    trained_img_size: int | Sequence[int] | None = None,
    shifted_positions: bool = False,
    **options: Any,
) -> Pretrained:
    """Build the model that a published checkpoint holds, and load it.

    Reads Lightning files, bare state dicts, safetensors and OpenMMLab checkpoints; nothing in them
    is run. The model's options are inferred from the names and shapes in the file. What these do
    not tell starts at the published default: pooling, rotation, scan path and order, `compress_2d`,
    a class token in the middle.

    path : the file.
    into : what to build from its weights, by default what the file itself is. "classifier" after
        pre-training, "dense" after ImageNet, or "channels": a channel model, for which the patch
        projection is averaged over the image's channels.
    family : "vim" for a Vim without class token, whose names are those of FastVim.
    ema : prefer the averaged weights where a file has them.
    trained_img_size : image size in px of the file's positions, where that is not square.
    shifted_positions : load MaskVim's positions into Vim unchanged, as the published fine-tuning
        did. The class token's comes first in the one and in the middle in the other, so half of
        the patches then start at a neighbour's position.
    options : of the model, for what the file does not tell or what is to differ, such as
        `num_classes` (the head then starts anew) or `img_size` (positions are resized). After
        pre-training with FastMaskVim `scaling_factor` is 0.25 by default.

    Returns the model in evaluation mode. Its `load_report` lists what was missing and unexpected,
    and a warning says so where there is any.

    Raises FileNotFoundError, and ValueError for a file that is none of these models, or that does
    not fit the options.
    """
    file = open_published(path, ema=ema)
    family = file.family if family is None else family
    task = file.task if into is None else into
    if (family, task) not in CLASSES:
        raise ValueError(
            f"into: expected one of {[*get_args(Task)]}, family: one of {[*get_args(Family)]}, "
            f"got {into!r} and {family!r}"
        )
    if family == "fastvim" and file.family == "vim":
        raise ValueError(f"{path}: family='fastvim', but it has a class token, as only Vim does")
    if file.task == "channels" != task:
        raise ValueError(f"{path}: a channel model's patches have one channel; {task!r} needs all")
    inferred = _options(file, family, task, trained_img_size, options)
    model = CLASSES[family, task](**{**inferred, **options})
    state = _convert(file, model, task, trained_img_size)
    if shifted_positions:
        state["pos_embed"] = file.state["pos_embed"]
    model.load_report = _load(file, model, state)
    return model.eval()


def _options(
    file: PublishedFile,
    family: Family,
    task: Task,
    trained_img_size: int | Sequence[int] | None,
    given: dict[str, Any],
) -> dict[str, Any]:
    """Options of a model for `task`, as far as the file tells."""
    options = file.shared_options()
    _, positions = file.positions("middle")
    if task != "pretraining":
        options["if_abs_pos_embed"] = positions is not None
    if positions is not None and "img_size" not in given:
        rows, columns = file.trained_grid(trained_img_size)
        options["img_size"] = [rows * file.patch, columns * file.patch]
    if task == file.task:
        options |= file.own_options()
    elif task != "channels":
        options["in_chans"] = file.state["patch_embed.proj.weight"].shape[1]
    if file.task == "pretraining" != task and family == "fastvim":
        options["scaling_factor"] = KEPT_BY_MASKING
    if task == "classifier" and family == "vim" != file.family:
        options["class_token"] = "none"
    if task == "dense" != file.task:
        options["out_indices"] = [file.depth * part // 4 - 1 for part in (1, 2, 3, 4)]
    return options


def _convert(
    file: PublishedFile,
    model: Pretrained,
    task: Task,
    trained_img_size: int | Sequence[int] | None,
) -> dict[str, Tensor]:
    """The file's tensors for a model: positions resized, first convolution averaged."""
    state = dict(file.state)
    place = getattr(model, "class_token", "none")
    class_position, positions = file.positions("head" if place == "head" else "middle")
    if task == "channels" != file.task:
        projection = state["patch_embed.proj.weight"]
        state["patch_embed.proj.weight"] = projection.mean(1, keepdim=True).unsqueeze(2)
        if class_position is not None:
            # there the class token has no position of its own, so it takes this one along
            state["cls_token"] = state["cls_token"] + class_position
    if positions is None or getattr(model, "pos_embed", None) is None:
        return state
    grid = model.grid
    if getattr(model, "colwise", False):  # positions lie column by column
        rows, columns = file.trained_grid(trained_img_size, grid[::-1])
        trained = columns, rows
    else:
        trained = file.trained_grid(trained_img_size, grid)
    positions = resize_positions(positions, trained, grid).flatten(1, 2)
    if isinstance(model, Vim | MaskVim) and place != "none":
        row = class_place(place, positions.shape[1]) if isinstance(model, Vim) else 0
        if class_position is None:
            class_position = torch.zeros_like(positions[:, :1])
        positions = torch.cat([positions[:, :row], class_position, positions[:, row:]], dim=1)
    state["pos_embed"] = positions
    return state


def _load(file: PublishedFile, model: Pretrained, state: dict[str, Tensor]) -> LoadReport:
    """Load what fits, and say what did not."""
    own, name = model.state_dict(), type(model).__name__
    fresh = [
        key
        for key, value in state.items()
        if key in own
        and value.shape != own[key].shape
        and key.startswith(("head.", "patch_embed.proj."))
    ]
    # a bias fits any size of patches, but belongs to its weight
    if "patch_embed.proj.weight" in fresh:
        fresh.append("patch_embed.proj.bias")
    fitting = {key: value for key, value in state.items() if key not in fresh}
    for key, value in fitting.items():
        if key in own and value.shape != own[key].shape:
            raise ValueError(
                f"{file.path}: {key} has shape {tuple(value.shape)}, but {name} with these options "
                f"needs {tuple(own[key].shape)}. Leave out the option that differs"
            )
    keys = model.load_state_dict(fitting, strict=False)
    missing, unexpected = list(keys.missing_keys), list(keys.unexpected_keys)
    report = LoadReport(file.path, file.entry, name, missing, unexpected, file.outside)
    if any(key.startswith("layers.") and not key.endswith("norm.bias") for key in missing):
        raise ValueError(f"the blocks are incomplete: {report}")
    if missing or unexpected:
        warnings.warn(str(report), stacklevel=3)
    return report
