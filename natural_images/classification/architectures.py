"""Classifiers built by name, of fastvim or of timm; one of timm's tells what it was built from."""

import difflib
from collections.abc import Mapping
from typing import Any

import timm
from torch import nn

import fastvim
from fastvim.classifier import ImageClassifier
from fastvim.registry import MODELS
from natural_images.errors import NaturalImagesValueError


def create_classifier(
    name: str, *, num_classes: int, size: int, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """Build an untrained classifier of `fastvim.list_models` or of timm, for square RGB images.

    Parameters
    ----------
    size
        Side of the images in px. timm's models without a fixed size take any.
    options
        Of the model's constructor, such as ``embed_dim`` or ``drop_path_rate``.

    Raises
    ------
    NaturalImagesValueError
        For an unknown name, a model that does not classify images, an unknown option, or a size
        smaller than one patch.
    """
    options = {"num_classes": num_classes, **(options or {})}
    ours = name in MODELS
    if not ours and not timm.is_model(name.split(".")[0]):
        near = difflib.get_close_matches(name, timm.list_models())
        raise NaturalImagesValueError(
            f"model.name: expected a name that fastvim or timm knows, got {name!r}. "
            f"Near it: {near or 'nothing'}"
        )
    if ours and not issubclass(MODELS[name][0], ImageClassifier):
        raise NaturalImagesValueError(
            f"model.name: expected an image classifier, got {name}, a {MODELS[name][0].__name__}"
        )
    try:
        if ours:
            model: Any = fastvim.create_model(name, **{"img_size": size, **options})
        else:
            fixed = getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False)
            options = ({"img_size": size} if fixed else {}) | options
            model = build_timm(name, options)
    except (TypeError, ValueError) as error:
        raise NaturalImagesValueError(f"model.options of {name}: {error}") from error
    check_size(model, size, "data.size")
    return model


def check_size(model: nn.Module, size: int, key: str) -> None:
    """Raise NaturalImagesValueError where images of `size` px are smaller than a model's patches.

    They would be padded to one patch, and answered all the same. `key` is what the message calls
    the size.
    """
    # Where fastvim and timm tell it; a ResNet, say, has no patches.
    holders = (model, getattr(model, "patch_embed", None))
    sides = next((s for h in holders if (s := getattr(h, "patch_size", None)) is not None), 1)
    patch = sides if isinstance(sides, int) else max(sides)
    if size < patch:
        raise NaturalImagesValueError(
            f"{key}: expected at least one patch of {type(model).__name__}, {patch} px, "
            f"got {size}. Take {patch} px or more"
        )


def build_timm(architecture: str, options: Mapping[str, Any]) -> Any:
    """Build an untrained model of timm that remembers its name and options, for `timm_config`."""
    model: Any = timm.create_model(architecture, **options)
    model.timm_options = {"architecture": architecture, **options}
    return model


def timm_config(model: Any, described: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """What timm needs to build a model of `build_timm` again: the content of its ``config.json``.

    `described` has ``size``, ``eval_crop``, ``interpolation``, ``mean`` and ``std`` of `ModelInfo`.
    Raises NaturalImagesValueError, which begins with `where`, for a model that was built otherwise.
    """
    given = getattr(model, "timm_options", None)
    if given is None:
        raise NaturalImagesValueError(
            f"{where}: a {type(model).__name__} does not tell what it was built from. "
            "Build it with natural_images.classification.architectures.create_classifier"
        )
    options = dict(given)
    return {
        "architecture": options.pop("architecture"),
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "model_args": options,
        "pretrained_cfg": {
            **{key: model.pretrained_cfg.get(key) for key in ("first_conv", "classifier")},
            "input_size": [3, described["size"], described["size"]],
            "fixed_input_size": bool(model.pretrained_cfg.get("fixed_input_size")),
            "interpolation": described["interpolation"],
            "crop_pct": described["eval_crop"],
            "mean": described["mean"],
            "std": described["std"],
            "num_classes": model.num_classes,
        },
    }
