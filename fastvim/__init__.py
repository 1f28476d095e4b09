"""FastVim models: tokens on a grid, mixers that scan some of its axes and pool the others.

Importing the package also registers the models' names with timm.
"""

from fastvim.channel_model import ChannelVim, FastChannelVim
from fastvim.classifier import FastVim, Vim
from fastvim.dense import DenseFastVim, DenseVim
from fastvim.masked_autoencoder import FastMaskVim, MaskVim
from fastvim.pretrained import from_pretrained
from fastvim.published import load_published
from fastvim.registry import create_model, list_models

__all__ = [
    "ChannelVim",
    "DenseFastVim",
    "DenseVim",
    "FastChannelVim",
    "FastMaskVim",
    "FastVim",
    "MaskVim",
    "Vim",
    "create_model",
    "from_pretrained",
    "list_models",
    "load_published",
]
