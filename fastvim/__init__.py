"""FastVim models: tokens on a grid, mixers that scan some of its axes and pool the others."""

from fastvim import variants  # noqa: F401, fills the registry
from fastvim.channel_model import FastChannelVim
from fastvim.classifier import FastVim
from fastvim.registry import create_model, list_models

__all__ = ["FastChannelVim", "FastVim", "create_model", "list_models"]
