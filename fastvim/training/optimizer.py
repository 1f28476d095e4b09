"""A recipe's optimiser, and the rates of its groups at each step."""

from typing import Any

import numpy as np
import torch
from torch import nn

from fastvim.training.parameter_groups import layer_decay_groups, parameter_groups
from fastvim.training.plan import StepPlan
from fastvim.training.recipe import Recipe
from fastvim.training.schedules import cosine_schedule, linear_schedule, step_schedule


class ScheduledOptimizer:
    """`torch` is the optimiser over the trained parameters of `model`; `schedule` sets its rates.

    A group learns at the scheduled rate times its "lr_scale", and is decayed as scheduled or not
    at all. Both factors follow from the model and the recipe, so no checkpoint needs to hold them.
    """

    def __init__(self, model: nn.Module, plan: StepPlan) -> None:
        recipe = plan.recipe
        groups = _groups(model, recipe)
        self._factors = [(g.get("lr_scale", 1.0), g.get("weight_decay", 1.0)) for g in groups]
        self.torch: torch.optim.Optimizer
        if recipe.optimizer == "sgd":
            self.torch = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum)
        else:
            # One kernel for all tensors where a GPU is, so that it does not wait for launches.
            fused = torch.cuda.is_available()
            self.torch = torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=fused)
        self.parameters = [p for group in self.torch.param_groups for p in group["params"]]
        self._lr = _rates(plan)
        self._weight_decay = cosine_schedule(
            recipe.weight_decay, recipe.weight_decay_end, steps=plan.steps
        )

    def schedule(self, step: int) -> dict[str, float]:
        """Set the rates of step `step` (0-based); returns them for a group of factor 1."""
        lr, decay = float(self._lr[step]), float(self._weight_decay[step])
        # Restoring a checkpoint replaces the groups, in the same order.
        for group, (lr_scale, decayed) in zip(self.torch.param_groups, self._factors, strict=True):
            group["lr"], group["weight_decay"] = lr * lr_scale, decay * decayed
        return {"lr": lr, "weight_decay": decay}


def _rates(plan: StepPlan) -> np.ndarray:
    """The learning rate of every step."""
    recipe = plan.recipe
    options: dict[str, Any] = {
        "steps": plan.steps,
        "warmup_steps": plan.warmup_steps,
        "warmup_start": recipe.warmup_lr,
        "warmup_endpoint": recipe.warmup_endpoint,
    }
    if recipe.schedule == "steps":
        return step_schedule(recipe.lr, milestones=recipe.milestones, **options)
    falling = linear_schedule if recipe.schedule == "linear" else cosine_schedule
    return falling(recipe.lr, recipe.min_lr, **options)


def _groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Groups whose "weight_decay" is the factor on the scheduled one: 0, or 1 also where absent."""
    if recipe.layer_decay is not None:
        return layer_decay_groups(model, weight_decay=1.0, layer_decay=recipe.layer_decay)
    return parameter_groups(
        model, decay=recipe.decay, undecayed=recipe.undecayed, lr_scales=recipe.lr_scales
    )
