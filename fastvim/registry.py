"""Models by name, here and in timm."""

import difflib
import fnmatch
import inspect
import math
from collections.abc import Callable
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    is_model_in_modules,
    register_model,
    resolve_pretrained_cfg,
)
from torch import nn

from fastvim.channel_model import ChannelVim, FastChannelVim
from fastvim.classifier import FastVim, ImageClassifier, Vim
from fastvim.dense import DenseFastVim, DenseVim
from fastvim.masked_autoencoder import FastMaskVim, MaskVim
from fastvim.pretrained import Pretrained
from fastvim.timm_methods import TimmClassifier

__all__ = ["MODELS", "create_model", "list_models"]  # timm adds the models' names

TINY = {"embed_dim": 192, "depth": 24, "patch_size": 16}
SMALL = {"embed_dim": 384, "depth": 24, "patch_size": 16}
BASE = {"embed_dim": 768, "depth": 24, "patch_size": 16}
LARGE = {"embed_dim": 1024, "depth": 48, "patch_size": 16}
HUGE = {"embed_dim": 1280, "depth": 64, "patch_size": 14}
MICRO = {"embed_dim": 64, "depth": 4, "img_size": 64, "channel_std": 1.0}

MODELS: dict[str, tuple[type[Pretrained], dict[str, Any]]] = {
    "fastvim_tiny_patch16_224": (FastVim, TINY),
    "fastvim_small_patch16_224": (FastVim, SMALL),
    "fastvim_base_patch16_224": (FastVim, BASE),
    "fastvim_large_patch16_224": (FastVim, LARGE),
    "fastvim_huge_patch14_224": (FastVim, HUGE),
    "vim_tiny_patch16_224": (Vim, TINY),
    "vim_small_patch16_224": (Vim, SMALL),
    "vim_base_patch16_224": (Vim, BASE),
    "vim_large_patch16_224": (Vim, LARGE),
    # JUMP-CP: eight channels, 161 classes
    "fastchannelvim_small_patch16": (FastChannelVim, SMALL),
    "fastchannelvim_small_patch8": (FastChannelVim, {**SMALL, "patch_size": 8}),
    "fastchannelvim_2d_small_patch16": (FastChannelVim, {**SMALL, "compress_2d": True}),
    "fastchannelvim_2d_small_patch8": (
        FastChannelVim,
        {**SMALL, "patch_size": 8, "compress_2d": True},
    ),
    "channelvim_small_patch16": (ChannelVim, SMALL),
    "channelvim_small_patch8": (ChannelVim, {**SMALL, "patch_size": 8}),
    # for crops of 64 px, to train on two CPU cores; patch 16 is the demonstration's model, with a
    # quarter of the tokens of patch 8, and three times as fast
    "fastchannelvim_micro_patch8": (FastChannelVim, {**MICRO, "patch_size": 8}),
    "fastchannelvim_micro_patch16": (FastChannelVim, {**MICRO, "patch_size": 16}),
    # MAE pre-training
    "fastmaskvim_base_patch16_224": (FastMaskVim, BASE),
    "fastmaskvim_large_patch16_224": (FastMaskVim, LARGE),
    "fastmaskvim_huge_patch14_224": (FastMaskVim, HUGE),
    "maskvim_base_patch16_224": (MaskVim, BASE),
    "maskvim_large_patch16_224": (MaskVim, LARGE),
    "maskvim_huge_patch16_224": (MaskVim, {**HUGE, "patch_size": 16}),
    # ADE20K and COCO
    "fastvim_tiny_patch16_dense": (DenseFastVim, TINY),
    "fastvim_small_patch16_dense": (DenseFastVim, SMALL),
    "fastvim_base_patch16_dense": (DenseFastVim, BASE),
    "vim_small_patch16_dense": (DenseVim, SMALL),
}
"""Each model's class and the options in which it differs from the class's defaults."""


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that match a shell-style pattern, sorted."""
    return sorted(fnmatch.filter(MODELS, pattern))


def create_model(name: str, **overrides: Any) -> Pretrained:
    """Build a model by name; `overrides` replace its constructor options.

    Raises ValueError for an unknown name and TypeError for an unknown option.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS)
        hint = f"Did you mean one of {near}?" if near else f"Known models: {list_models()}"
        raise ValueError(f"Unknown model {name!r}. {hint}")
    model_class, options = MODELS[name]
    return model_class(**{**options, **overrides})


def _timm_description(name: str) -> dict[str, Any]:
    """What timm needs to know of a model, as far as its data and its head are concerned."""
    model_class, options = MODELS[name]
    parameters = inspect.signature(model_class).parameters.values()
    options = {option.name: option.default for option in parameters} | options
    channels, side = options["in_chans"], options["img_size"]
    photographs = channels == 3
    return {
        "input_size": (channels, side, side),
        "num_classes": options.get("num_classes", -1),
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "mean": IMAGENET_DEFAULT_MEAN if photographs else (0.0,) * channels,
        "std": IMAGENET_DEFAULT_STD if photographs else (1.0,) * channels,
        "first_conv": "patch_embed.proj",
        "classifier": "head" if "num_classes" in options else None,
    }


default_cfgs = generate_default_cfgs({name: _timm_description(name) for name in MODELS})
"""timm looks for them under this name."""


def _timm_entrypoint(name: str) -> Callable[..., nn.Module]:
    """The function that timm calls to build a model."""
    model_class, options = MODELS[name]

    def build(global_pool: str | None = None, drop_rate: float = 0.0, **kwargs: Any) -> Pretrained:
        # timm's training script always passes a drop_rate
        if drop_rate != 0:
            raise TypeError(f"{name}: drop_rate={drop_rate}: no dropout here, but drop_path_rate")
        model = model_class(**kwargs)
        if global_pool is not None:
            if not isinstance(model, TimmClassifier):
                raise TypeError(f"{name}: global_pool={global_pool!r}, but it classifies nothing")
            model.set_global_pool(global_pool)
        return model

    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        given = (kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay"))
        source = resolve_pretrained_cfg(name, *given)
        if pretrained and not (source.has_weights or source.state_dict):
            raise RuntimeError(
                f"{name}: no weights are hosted. Give fastvim.load_published a published file, or "
                f"timm.create_model a checkpoint_path of this model's own"
            )
        kwargs = {**options, **kwargs}
        if kwargs.get("features_only") and not issubclass(model_class, ImageClassifier):
            raise TypeError(f"{name}: features_only is for image classifiers")
        quarters = (part * kwargs["depth"] / 4 for part in (1, 2, 3, 4))
        features = {
            "out_indices": tuple(sorted({math.ceil(blocks) - 1 for blocks in quarters})),
            "feature_cls": "getter",
        }
        return build_model_with_cfg(build, name, pretrained, feature_cfg=features, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    return entrypoint


for _name in MODELS:
    # where this module is run again its models are known; timm would warn of each
    if not is_model_in_modules(_name, [__name__.rsplit(".", 1)[-1]]):
        globals()[_name] = register_model(_timm_entrypoint(_name))
