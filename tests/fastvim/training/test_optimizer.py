"""The rates that the groups of an optimiser get at each step."""

import math

import pytest
import torch
from torch import nn

from fastvim.training import Recipe, cosine_schedule
from fastvim.training.optimizer import ScheduledOptimizer
from fastvim.training.plan import StepPlan

STEPS = 20


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 4, 2))
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(4))
        self.head = nn.Linear(2, 2)


def rates(model: nn.Module, step: int, **keys) -> dict[str, tuple[float, float]]:
    """(learning rate, weight decay) of every parameter at `step` of 20 steps."""
    recipe = Recipe(epochs=10, warmup_epochs=2, batch_size=4, lr_scale_batch=4, **keys)
    optimizer = ScheduledOptimizer(model, StepPlan(recipe, samples=8, processes=1, rank=0))
    optimizer.schedule(step)
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in optimizer.torch.param_groups
        for p in group["params"]
    }


@pytest.mark.parametrize("step", [0, 3, 4, STEPS - 1])
def test_matrices_follow_the_decay_schedule_and_vectors_have_none(step):
    got = rates(Blocks(), step, base_lr=0.1, weight_decay=0.1, weight_decay_end=0.5)
    lr = cosine_schedule(0.1, 1e-6, steps=STEPS, warmup_steps=4)[step]
    decay = cosine_schedule(0.1, 0.5, steps=STEPS)[step]
    assert got["layers.1.weight"] == got["pos_embed"] == (lr, decay)
    assert got["layers.1.bias"] == (lr, 0)


def test_decay_of_all_is_one_group():
    got = rates(Blocks(), 5, decay="all", weight_decay=0.05, weight_decay_end=0.05)
    assert {decay for _, decay in got.values()} == {0.05}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_layer_decay_scales_the_rate_of_blocks_and_keeps_the_decay(optimizer):
    keys = {"weight_decay": 0.05, "weight_decay_end": 0.05, "base_lr": 0.1}
    got = rates(Blocks(), 9, layer_decay=0.5, optimizer=optimizer, **keys)
    lr = cosine_schedule(0.1, 1e-6, steps=STEPS, warmup_steps=4)[9]
    assert got["head.weight"] == (lr, 0.05)
    assert got["head.bias"] == (lr, 0)
    assert [got[f"layers.{i}.weight"][0] / lr for i in range(4)] == [0.25, 0.25, 0.5, 0.5]
    assert got["pos_embed"] == (0.125 * lr, 0.05)


def test_decay_may_begin_at_zero_with_layer_decay():
    got = rates(Blocks(), STEPS - 1, layer_decay=0.5, weight_decay=0.0, weight_decay_end=0.4)
    assert got["layers.0.weight"][1] > 0.3
    assert got["layers.0.bias"][1] == 0


def test_warmup_of_maes_and_of_the_supervised_recipe():
    """MAE: rate · epoch / warm-up epochs, the epoch counted in steps, up to but not at the peak."""
    mae = {"base_lr": 0.1, "min_lr": 0.0, "warmup_endpoint": False}
    got = [rates(Blocks(), step, **mae)["head.bias"][0] for step in range(STEPS)]
    epochs = [step / 2 for step in range(STEPS)]
    expected = [
        0.1 * e / 2 if e < 2 else 0.1 * 0.5 * (1 + math.cos(math.pi * (e - 2) / 8)) for e in epochs
    ]
    assert got == pytest.approx(expected, rel=1e-12)
    supervised = {"base_lr": 0.1, "min_lr": 1e-5, "warmup_lr": 1e-6}
    got = [rates(Blocks(), step, **supervised)["head.bias"][0] for step in (0, 3, 4)]
    assert got == [1e-6, 0.1, 0.1]


def test_factors_hold_after_the_groups_of_an_older_checkpoint_are_restored():
    """Restoring takes the checkpoint's options of a group, which may lack "lr_scale"."""
    model = Blocks()
    recipe = Recipe(epochs=1, warmup_epochs=0, batch_size=8, base_lr=0.1, layer_decay=0.5)
    optimizer = ScheduledOptimizer(model, StepPlan(recipe, samples=8, processes=1, rank=0))
    optimizer.schedule(0)
    before = [(group["lr"], group["weight_decay"]) for group in optimizer.torch.param_groups]
    state = optimizer.torch.state_dict()
    for group in state["param_groups"]:
        del group["lr_scale"]
    optimizer.torch.load_state_dict(state)
    optimizer.schedule(0)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.torch.param_groups] == before


def test_parts_of_names_choose_what_is_not_decayed_and_what_learns_slower():
    keys = {"weight_decay": 0.05, "weight_decay_end": 0.05, "base_lr": 0.1, "decay": "all"}
    got = rates(
        Blocks(), 9, **keys, undecayed=["pos_embed"], lr_scales={"pos_embed": 0.5, "head.b": 0.25}
    )
    lr = cosine_schedule(0.1, 1e-6, steps=STEPS, warmup_steps=4)[9]
    assert got["pos_embed"] == (0.5 * lr, 0)
    assert got["head.bias"] == (0.25 * lr, 0.05)
    assert got["layers.0.weight"] == got["head.weight"] == (lr, 0.05)


def test_a_part_that_no_name_has_is_refused():
    with pytest.raises(ValueError, match=r"Blocks: expected parameters with 'pos_emb_' in"):
        rates(Blocks(), 0, undecayed=["pos_emb_"])


@pytest.mark.parametrize(("step", "factor"), [(3, 1.0), (9, 1.0), (10, 0.1), (15, 0.01)])
def test_rate_in_steps(step, factor):
    got = rates(Blocks(), step, base_lr=0.1, schedule="steps", milestones=[10, 15])
    assert got["head.weight"][0] == pytest.approx(0.1 * factor)


def test_rate_on_a_line():
    got = rates(Blocks(), 12, base_lr=0.1, min_lr=0.0, schedule="linear")
    assert got["head.weight"][0] == pytest.approx(0.05)
