"""The named models, one function each."""

from typing import Any

from fastvim.channel_model import FastChannelVim
from fastvim.classifier import FastVim
from fastvim.registry import register_model

MICRO = {"embed_dim": 64, "depth": 4, "img_size": 64, "channel_std": 1.0}


@register_model
def fastvim_tiny_patch16_224(**overrides: Any) -> FastVim:
    """FastVim-T, 7 M parameters."""
    return FastVim(**{"embed_dim": 192, "depth": 24, **overrides})


@register_model
def fastvim_small_patch16_224(**overrides: Any) -> FastVim:
    """FastVim-S, 26 M parameters."""
    return FastVim(**{"embed_dim": 384, "depth": 24, **overrides})


@register_model
def fastvim_base_patch16_224(**overrides: Any) -> FastVim:
    """FastVim-B, 98 M parameters."""
    return FastVim(**{"embed_dim": 768, "depth": 24, **overrides})


@register_model
def fastchannelvim_small_patch16(**overrides: Any) -> FastChannelVim:
    """FastChannelVim-S/16 of the JUMP-CP experiments."""
    return FastChannelVim(**{"embed_dim": 384, "depth": 24, "patch_size": 16, **overrides})


@register_model
def fastchannelvim_small_patch8(**overrides: Any) -> FastChannelVim:
    """FastChannelVim-S/8 of the JUMP-CP experiments."""
    return FastChannelVim(**{"embed_dim": 384, "depth": 24, "patch_size": 8, **overrides})


@register_model
def fastchannelvim_micro_patch8(**overrides: Any) -> FastChannelVim:
    """A small model for crops of 64 px, to train on two CPU cores."""
    return FastChannelVim(**{**MICRO, "patch_size": 8, **overrides})


@register_model
def fastchannelvim_micro_patch16(**overrides: Any) -> FastChannelVim:
    """The demonstration's model: a quarter of the tokens of patch 8, three times as fast."""
    return FastChannelVim(**{**MICRO, "patch_size": 16, **overrides})
