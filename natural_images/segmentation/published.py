"""Published ADE20K checkpoints of OpenMMLab: what they hold, checked and read."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import fastvim
from fastvim.checkpoint_file import read_tensors
from fastvim.dense import DenseBackbone
from fastvim.registry import MODELS
from natural_images.errors import NaturalImagesDataError
from natural_images.segmentation.upernet import HeadSection

CLASSIFIERS = ("decode_head.conv_seg.weight", "auxiliary_head.conv_seg.weight")

ADE20K = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk,
person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf,
house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub,
railing, cushion, base, box, column, signboard, chest of drawers, counter, sand, sink, skyscraper,
fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen door,
stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench,
countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel,
bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television, airplane,
dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage,
van, ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel,
basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name,
microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase,
traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower,
radiator, glass, clock, flag
"""
"""Names of the benchmark's 150 classes, the first of the synonyms of each (Zhou et al. 2017)."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class PublishedSegmenter:
    """A published checkpoint, whole and of the right shapes.

    head_tensors
        Tensors of both heads by their names.
    """

    backbone: DenseBackbone
    num_classes: int
    heads: HeadSection
    head_tensors: Mapping[str, Tensor]

    def tensors(self, head: str) -> dict[str, Tensor]:
        """Tensors of one head, "decode_head" or "auxiliary_head", by the names that it uses."""
        prefix = f"{head}."
        named = self.head_tensors.items()
        return {
            name.removeprefix(prefix): value for name, value in named if name.startswith(prefix)
        }


def read_published(path: Path, options: Mapping[str, Any]) -> PublishedSegmenter:
    """Read a checkpoint file of OpenMMLab with a backbone, a decode head and an auxiliary head.

    Sizes are inferred from shapes. Pool scales and the map of the auxiliary head, which the file
    does not tell, are the published ones.

    Parameters
    ----------
    options
        Of `fastvim.load_published`, for what the file does not tell of the backbone.

    Raises
    ------
    NaturalImagesDataError
        No such file, not a segmenter, or names or shapes that differ from `head_shapes`.
    """
    try:
        with warnings.catch_warnings():
            # What they say of missing names is an error here.
            warnings.simplefilter("ignore", UserWarning)
            backbone = fastvim.load_published(path, **options)
    except (OSError, TypeError, ValueError) as error:
        raise NaturalImagesDataError(f"{path}: no segmenter to load ({error})") from error
    report = backbone.load_report
    state = read_tensors(path)[report.entry]
    tensors = {name: state[name] for name in report.outside}
    if not isinstance(backbone, DenseBackbone) or not set(CLASSIFIERS) <= set(tensors):
        raise NaturalImagesDataError(
            f"{path}: expected an ADE20K checkpoint with backbone, decode_head and auxiliary_head, "
            f"got a {type(backbone).__name__} and {len(tensors)} other tensors. A backbone alone "
            "is for `initial` of a training"
        )
    if report.missing or report.unexpected:
        raise NaturalImagesDataError(f"{path}: expected a whole backbone, got {report}")
    num_classes, heads = _sizes(tensors)
    wanted = head_shapes(backbone.embed_dim, len(backbone.out_indices), num_classes, heads)
    _compare(path, {name: tuple(value.shape) for name, value in tensors.items()}, wanted)
    return PublishedSegmenter(backbone, num_classes, heads, tensors)


def head_shapes(dim: int, maps: int, num_classes: int, heads: HeadSection) -> dict[str, Shape]:
    """Names and shapes of what a published checkpoint holds beside ``backbone.``.

    With c channels and s pool scales, `maps` maps of `dim` channels and a channels in the auxiliary
    head (512, 4, 4 and 256 as published):

    ======================================== ================================= ==========
    name                                     shape                             how often
    ======================================== ================================= ==========
    decode_head.psp_modules.{i}.1.conv       (c, dim, 1, 1)                    s
    decode_head.bottleneck.conv              (c, dim + s c, 3, 3)              1
    decode_head.lateral_convs.{i}.conv       (c, dim, 1, 1)                    maps − 1
    decode_head.fpn_convs.{i}.conv           (c, c, 3, 3)                      maps − 1
    decode_head.fpn_bottleneck.conv          (c, maps c, 3, 3)                 1
    decode_head.conv_seg                     (class, c, 1, 1)                  1
    auxiliary_head.convs.0.conv              (a, dim, 3, 3)                    1
    auxiliary_head.conv_seg                  (class, a, 1, 1)                  1
    ======================================== ================================= ==========

    Each ``.conv`` has a ``.weight`` alone and beside it a batch norm ``.bn`` of its output's
    channels: ``.weight``, ``.bias``, ``.running_mean``, ``.running_var`` and
    ``.num_batches_tracked``. Each ``.conv_seg`` has a ``.weight`` and a ``.bias``.
    """
    channels, auxiliary = heads.channels, heads.auxiliary_channels
    decode, scales = "decode_head", len(heads.pool_scales)
    convs = {
        **{f"{decode}.psp_modules.{i}.1": (channels, dim, 1, 1) for i in range(scales)},
        f"{decode}.bottleneck": (channels, dim + scales * channels, 3, 3),
        **{f"{decode}.lateral_convs.{i}": (channels, dim, 1, 1) for i in range(maps - 1)},
        **{f"{decode}.fpn_convs.{i}": (channels, channels, 3, 3) for i in range(maps - 1)},
        f"{decode}.fpn_bottleneck": (channels, maps * channels, 3, 3),
        "auxiliary_head.convs.0": (auxiliary, dim, 3, 3),
    }
    shapes: dict[str, Shape] = {}
    for name, shape in convs.items():
        shapes[f"{name}.conv.weight"] = shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.bn.{part}"] = shape[:1]
        shapes[f"{name}.bn.num_batches_tracked"] = ()
    for head, width in ((decode, channels), ("auxiliary_head", auxiliary)):
        shapes[f"{head}.conv_seg.weight"] = (num_classes, width, 1, 1)
        shapes[f"{head}.conv_seg.bias"] = (num_classes,)
    return shapes


def class_names(count: int) -> tuple[str, ...]:
    """ADE20K's names for 150 classes, else "class 1", "class 2" and so on."""
    names = tuple(name.strip() for name in ADE20K.split(","))
    if count == len(names):
        return names
    return tuple(f"class {number}" for number in range(1, count + 1))


def registry_name(backbone: DenseBackbone) -> str:
    """Name of the model in fastvim's registry that a backbone is, or comes nearest to."""
    alike = {name: preset for name, (kind, preset) in MODELS.items() if type(backbone) is kind}
    options = backbone.options

    def shared(name: str) -> int:
        return sum(options.get(key) == value for key, value in alike[name].items())

    return max(alike, key=shared)


def _sizes(tensors: Mapping[str, Tensor]) -> tuple[int, HeadSection]:
    (num_classes, channels), (_, auxiliary) = (tensors[name].shape[:2] for name in CLASSIFIERS)
    return num_classes, HeadSection(channels=channels, auxiliary_channels=auxiliary)


def _compare(path: Path, found: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> None:
    """Raise NaturalImagesDataError where names or shapes differ."""
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    if missing or unexpected:
        raise NaturalImagesDataError(
            f"{path}: expected the tensors of UPerNet, got {_listed(missing)} missing and "
            f"{_listed(unexpected)} that it has no use for. Load a checkpoint of the published "
            "ADE20K recipe"
        )
    different = [
        f"{name} {found[name]} instead of {shape}"
        for name, shape in wanted.items()
        if found[name] != shape
    ]
    if different:
        raise NaturalImagesDataError(
            f"{path}: expected the shapes of UPerNet, got {_listed(different)}. Load a checkpoint "
            "of the published ADE20K recipe"
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"{', '.join(names[:4])}{more}" if names else "nothing"
