"""The training engine: one loop, its recipe, and the schedules and groups it uses."""

from fastvim.training.averages import averaged_weights
from fastvim.training.loop import fit
from fastvim.training.parameter_groups import layer_decay_groups, parameter_groups
from fastvim.training.reading import BatchDataset
from fastvim.training.recipe import Recipe
from fastvim.training.schedules import cosine_schedule

__all__ = [
    "BatchDataset",
    "Recipe",
    "averaged_weights",
    "cosine_schedule",
    "fit",
    "layer_decay_groups",
    "parameter_groups",
]
