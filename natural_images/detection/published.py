"""Detectors in published checkpoint files of OpenMMLab, and what such a file must hold.

With D the backbone's width, C 256 channels, K 80 classes, s = 0, 1, 2 a stage and i a number:

=====================================================  =========================================
name                                                   shape
=====================================================  =========================================
``backbone.`` and the names of a dense backbone        as fastvim has them, with one ``outnorm_0``
``neck.fpn1.0.weight``, ``.bias``                      (D, D/2, 2, 2), (D/2)
``neck.fpn1.1.weight``, ``.bias``                      (D/2) LayerNorm
``neck.fpn1.3.weight``, ``.bias``                      (D/2, D/4, 2, 2), (D/4)
``neck.fpn2.0.weight``, ``.bias``                      (D, D/2, 2, 2), (D/2)
``neck.lateral_convs.{i}.conv.weight``, i < 4          (C, D/4 | D/2 | D | D, 1, 1)
``neck.fpn_convs.{i}.conv.weight``, i < 4              (C, C, 3, 3)
``rpn_head.rpn_conv.{i}.conv.weight``, ``.bias``       (C, C, 3, 3), (C); i < 2
``rpn_head.rpn_cls.weight``, ``.bias``                 (3, C, 1, 1), (3)
``rpn_head.rpn_reg.weight``, ``.bias``                 (12, C, 1, 1), (12)
``roi_head.bbox_head.{s}.shared_convs.{i}.conv.weight``  (C, C, 3, 3); i < 4
``roi_head.bbox_head.{s}.shared_fcs.0.weight``, ``.bias``  (1024, 49 C), (1024)
``roi_head.bbox_head.{s}.fc_cls.weight``, ``.bias``    (K + 1, 1024), (K + 1); background last
``roi_head.bbox_head.{s}.fc_reg.weight``, ``.bias``    (4, 1024), (4)
``roi_head.mask_head.{s}.convs.{i}.conv.weight``       (C, C, 3, 3); i < 4
``roi_head.mask_head.{s}.upsample.weight``, ``.bias``  (C, C, 2, 2), (C)
``roi_head.mask_head.{s}.conv_logits.weight``, ``.bias``  (K, C, 1, 1), (K)
=====================================================  =========================================

Beside each ``conv`` of the pyramid and the box heads stands its LayerNorm ``ln.weight`` and
``ln.bias``, (C), which may also be called ``norm_layer``. In the mask heads there may be such ones
too, or ``conv.bias`` in their place.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from fastvim.checkpoint_file import read_tensors
from fastvim.published_file import BACKBONE, PublishedFile
from fastvim.registry import MODELS, list_models
from natural_images.detection.head_section import HeadSection
from natural_images.errors import NaturalImagesDataError

log = logging.getLogger(__name__)

ENTRIES = ("state_dict", "model", "")
PARTS = (BACKBONE, "neck.", "rpn_head.", "roi_head.")
TOLD_BY = (
    "backbone.patch_embed.proj.weight",
    "backbone.pos_embed",
    "backbone.layers.0.norm.weight",
    "neck.lateral_convs.0.conv.weight",
    "rpn_head.rpn_conv.0.conv.weight",
    "roi_head.bbox_head.0.shared_fcs.0.weight",
    "roi_head.bbox_head.0.fc_cls.weight",
    "roi_head.mask_head.0.conv_logits.weight",
)
"""Tensors whose names and shapes say what the file holds."""


@dataclass(frozen=True)
class PublishedDetector:
    """What a file holds: fields of `DetectorInfo`, and tensors by the names used here."""

    described: dict[str, Any]
    tensors: dict[str, Tensor]


def open_published(path: Path, model: str | None = None) -> PublishedDetector:
    """Read a checkpoint; nothing in it is run.

    model
        The backbone's name; None for FastVim. Its sizes are told by the file.

    Raises NaturalImagesDataError for a file that does not open, or holds no such detector.
    """
    path = Path(path)
    try:
        entries = read_tensors(path)
    except (OSError, ValueError) as error:
        raise NaturalImagesDataError(
            f"{path}: expected a detector: a folder of training or a published checkpoint ({error})"
        ) from error
    found = next((entries[name] for name in ENTRIES if name in entries), {})
    tensors = {
        name.replace(".norm_layer.", ".ln."): value
        for name, value in found.items()
        if name.startswith(PARTS)
    }
    if absent := [name for name in TOLD_BY if name not in tensors]:
        raise NaturalImagesDataError(
            f"{path}: expected a Cascade Mask R-CNN on a FastVim or Vim, but there is no "
            f"{absent[0]} among {list(found)[:4]} …"
        )
    backbone = PublishedFile(path, "", _under(tensors, BACKBONE), [])
    options = {**backbone.shared_options(), "out_indices": [-1]}
    if model is None:
        model = _backbone_name(options["embed_dim"])
        log.info("%s: taken for a %s; a Vim's file is not told from it (--backbone)", path, model)
    count = len(tensors["roi_head.bbox_head.0.fc_cls.weight"]) - 1
    classes, ids = _class_names(count)
    described = {
        "classes": classes,
        "category_ids": ids,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "size": backbone.trained_grid(None)[0] * backbone.patch,
        "model": model,
        "options": options,
        "heads": _heads(tensors),
    }
    return PublishedDetector(described, tensors)


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load all of a model's tensors, and no others.

    Raises NaturalImagesDataError that names the first that is missing, of another shape, or unknown
    to the model.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in tensors]
    extra = [name for name in tensors if name not in own]
    other = [name for name in own if name in tensors and tensors[name].shape != own[name].shape]
    for names, fault in ((missing, "no"), (other, "another shape of"), (extra, "an unknown")):
        if names:
            shapes = f": {tuple(tensors[names[0]].shape)}" if names[0] in tensors else ""
            wanted = f" {tuple(own[names[0]].shape)}" if names[0] in own else ""
            raise NaturalImagesDataError(
                f"{path}: expected the {len(own)} tensors of a detector, found {fault} "
                f"{names[0]}{wanted}{shapes}, and so for {len(names) - 1} others. It may be of "
                "another architecture or version"
            )
    model.load_state_dict(dict(tensors))


def _heads(tensors: Mapping[str, Tensor]) -> HeadSection:
    box, mask = "roi_head.bbox_head.0.", "roi_head.mask_head.0."
    return HeadSection(
        channels=len(tensors["neck.lateral_convs.0.conv.weight"]),
        rpn_convs=_count(tensors, "rpn_head.rpn_conv."),
        box_convs=_count(tensors, f"{box}shared_convs."),
        box_fc=len(tensors[f"{box}shared_fcs.0.weight"]),
        mask_convs=_count(tensors, f"{mask}convs."),
        mask_norm=f"{mask}convs.0.ln.weight" in tensors,
    )


def _backbone_name(dim: int) -> str:
    """The published FastVim of that width; any of them where there is none, as options tell all."""
    names = list_models("fastvim_*_dense")
    return next((name for name in names if MODELS[name][1]["embed_dim"] == dim), names[0])


def _class_names(count: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """COCO's names and ids, 80 of 90 possible ones; else numbers from 1."""
    known = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    used = {i: name for i, name in enumerate(known) if i > 0 and name != "N/A"}
    if len(used) != count:
        used = {number: str(number) for number in range(1, count + 1)}
    return tuple(used.values()), tuple(used)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Number of modules `prefix`0, `prefix`1 and so on."""
    return len({name.split(".")[0] for name in _under(tensors, prefix)})
