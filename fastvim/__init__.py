"""FastVim models: tokens on a grid, mixers that scan some of its axes and pool the others."""

from fastvim.channel_model import FastChannelVim
from fastvim.classifier import FastVim
from fastvim.registry import create_model, list_models
from fastvim import variants as variants

__all__ = ["FastChannelVim", "FastVim", "create_model", "list_models"]
