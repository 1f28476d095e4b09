"""The training engine: one loop, its recipe, and the schedules and groups it uses."""

from fastvim.training.loop import BatchDataset, fit
from fastvim.training.parameter_groups import layer_decay_groups, parameter_groups
from fastvim.training.recipe import Recipe
from fastvim.training.schedules import cosine_schedule

__all__ = [
    "BatchDataset",
    "Recipe",
    "cosine_schedule",
    "fit",
    "layer_decay_groups",
    "parameter_groups",
]
