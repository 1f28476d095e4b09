"""Optimiser groups and schedules against the published code's own tables.

The entries are found in the files, and each says what it was made with.
"""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fastvim.training import Recipe, cosine_schedule, layer_decay_groups, parameter_groups
from fastvim.training.optimizer import ScheduledOptimizer
from fastvim.training.plan import StepPlan

GOLDEN = Path(__file__).parents[3].parent / "shared" / "golden"
TABLES = GOLDEN / "tables"

pytestmark = pytest.mark.skipif(not TABLES.exists(), reason=f"no golden tables at {TABLES}")


def read(table: str) -> dict:
    # Read while tests are collected, so absence must not be an error.
    path = TABLES / f"{table}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def entries(table: str) -> list:
    return [pytest.param(entry, id=name) for name, entry in read(table).items() if name[0] != "_"]


@pytest.fixture(scope="module")
def axes():
    """Number of axes of every published parameter, by its name in block 0."""
    # Layer scale, and LayerNorm after the blocks, are in no full-size model.
    found = {"layers.0.mixer.gamma": 1, "norm_f.bias": 1}
    for path in (GOLDEN / "structure").glob("*.json"):
        for name, shape in json.loads(path.read_text())["params"].items():
            found[in_block_0(name)] = len(shape)
    return found


def in_block_0(name: str) -> str:
    return re.sub(r"\.\d+\.", ".0.", name)


class Named(nn.Module):
    """Parameters of these names and numbers of axes, in this order."""

    def __init__(self, ndims: dict[str, int], *, frozen=(), undecayed=()) -> None:
        super().__init__()
        self._named = {
            name: nn.Parameter(torch.zeros((1,) * ndim), requires_grad=name not in frozen)
            for name, ndim in ndims.items()
        }
        if undecayed:
            self.no_weight_decay = lambda: set(undecayed)

    def named_parameters(self, *arguments, **options):
        return iter(self._named.items())

    def names(self, group: dict) -> list[str]:
        return [name for p in group["params"] for name, q in self._named.items() if p is q]


@pytest.mark.parametrize(
    "entry", entries("imagenet_get_params_groups") + entries("cell_get_params_groups_wd")
)
def test_decayed_parameters(entry, axes):
    expected, frozen = entry["regularised"], entry["absent_requires_grad_false"]
    model = Named({name: axes[in_block_0(name)] for name in [*expected, *frozen]}, frozen=frozen)
    decayed, others = parameter_groups(model)
    got = dict.fromkeys(model.names(decayed), True) | dict.fromkeys(model.names(others), False)
    assert got == expected

    decay, of_others = entry["group_weight_decay"]
    assert others["weight_decay"] == of_others
    assert "weight_decay" not in decayed
    if isinstance(decay, float):
        optimizer = torch.optim.AdamW([decayed, others], weight_decay=decay)
        assert [group["weight_decay"] for group in optimizer.param_groups] == [decay, of_others]


@pytest.mark.parametrize("entry", entries("param_groups_lrd"))
def test_layer_decay(entry, axes):
    expected = entry["params"]
    model = Named(
        {name: axes[in_block_0(name)] for name in expected},
        undecayed=entry["no_weight_decay_list"],
    )
    groups = layer_decay_groups(
        model, weight_decay=entry["weight_decay"], layer_decay=entry["layer_decay"]
    )
    got = {
        name: [group["lr_scale"], group["weight_decay"]]
        for group in groups
        for name in model.names(group)
    }
    assert got == expected
    # The table lists parameters group by group, so the groups have its order too.
    summary = [
        {
            "lr_scale": group["lr_scale"],
            "weight_decay": group["weight_decay"],
            "n": len(group["params"]),
        }
        for group in groups
    ]
    assert summary == entry["groups"]


@pytest.mark.parametrize("entry", entries("param_groups_lrd"))
def test_layer_decay_of_a_recipe(entry, axes):
    """What the optimiser has in a step, which is the table's at a rate of 1."""
    model = Named(
        {name: axes[in_block_0(name)] for name in entry["params"]},
        undecayed=entry["no_weight_decay_list"],
    )
    decay = entry["weight_decay"]
    recipe = Recipe(
        epochs=1,
        warmup_epochs=0,
        batch_size=1,
        base_lr=1.0,
        lr_scale_batch=1,
        weight_decay=decay,
        weight_decay_end=decay,
        layer_decay=entry["layer_decay"],
    )
    optimizer = ScheduledOptimizer(model, StepPlan(recipe, samples=1, processes=1, rank=0))
    optimizer.schedule(0)
    got = {
        name: [group["lr"], group["weight_decay"]]
        for group in optimizer.torch.param_groups
        for name in model.names(group)
    }
    assert got == entry["params"]


@pytest.mark.parametrize(
    ("name", "scales"), read("param_groups_lrd").get("_scales_by_depth", {}).items()
)
def test_layer_decay_at_published_depths(name, scales):
    depth, layer_decay = re.fullmatch(r"depth(\d+)_decay([\d.]+)", name).groups()
    before = ["pos_embed", "patch_embed.proj.weight", "patch_embed.channel_embed.weight"]
    blocks = [f"layers.{i}.mixer.A_log" for i in range(int(depth))]
    after = ["head.weight", "norm_f.weight"]
    names = [*before, "cls_token", *blocks, *after]
    model = Named(dict.fromkeys(names, 2))
    groups = layer_decay_groups(model, weight_decay=0.05, layer_decay=float(layer_decay))
    got = {parameter: group["lr_scale"] for group in groups for parameter in model.names(group)}
    expected = dict.fromkeys([*before, "cls_token"], scales["id0_pos_patch_cls"])
    expected |= dict(zip(blocks, scales["layers"], strict=True))
    expected |= dict.fromkeys(after, scales["head_norm_f"])
    assert got == expected


def warmed_up(entry: dict) -> np.ndarray:
    """`cosine_scheduler` itself."""
    per_epoch = entry["iter_per_epoch"]
    return cosine_schedule(
        entry["base_value"],
        entry["final_value"],
        steps=entry["scheduling_epochs"] * per_epoch,
        warmup_steps=entry.get("warmup_epochs", 0) * per_epoch,
        warmup_start=entry.get("warmup_initial_value", 0.0),
    )


def learning_rate(entry: dict) -> np.ndarray:
    """`get_lr_scheduler`: the peak rate follows from the batch of all devices together."""
    devices = entry["cuda_device_count"] * entry["num_nodes"]
    batch, lr = entry["batch_size"] * devices, entry["lr"]
    if "len_dataset_train" in entry:
        per_epoch = entry["len_dataset_train"] // entry["loader_batch_size"] // devices
    else:
        per_epoch = entry["len_train_dataloader"] // devices
    if entry["scaling_rule"] == "sqrt":
        # No published recipe uses it, so `Recipe` does not express it.
        return cosine_schedule(
            lr * math.sqrt(batch / 1024),
            entry["min_lr"],
            steps=entry["scheduling_epochs"] * per_epoch,
            warmup_steps=entry["warmup_epochs"] * per_epoch,
            warmup_start=entry["warmup_initial_lr"],
        )
    recipe = Recipe(
        epochs=entry["scheduling_epochs"],
        warmup_epochs=entry["warmup_epochs"],
        batch_size=batch,
        base_lr=lr,
        lr_scale_batch={"linear": 256, "deit": 512}[entry["scaling_rule"]],
        min_lr=entry["min_lr"],
        warmup_lr=entry["warmup_initial_lr"],
    )
    plan = StepPlan(recipe, samples=per_epoch * batch, processes=devices, rank=0)
    optimizer = ScheduledOptimizer(nn.Linear(1, 1), plan)
    return np.array([optimizer.schedule(step)["lr"] for step in range(plan.steps)])


def weight_decay(entry: dict) -> np.ndarray:
    """`get_wd_scheduler`: no warm-up."""
    per_epoch = entry["len_train_dataloader"] // (entry["cuda_device_count"] * entry["num_nodes"])
    return cosine_schedule(
        entry["weight_decay"],
        entry["weight_decay_end"],
        steps=entry["scheduling_epochs"] * per_epoch,
    )


KINDS = {"base_value": warmed_up, "scaling_rule": learning_rate, "weight_decay": weight_decay}
"""What a schedule is, by an option that only its kind has."""


@pytest.mark.parametrize("name", read("schedules"))
def test_schedule(name):
    entry = read("schedules")[name]
    (kind,) = (kind for option, kind in KINDS.items() if option in entry)
    with np.load(TABLES / "schedules.npz") as published:
        np.testing.assert_allclose(kind(entry), published[name], rtol=1e-12, atol=1e-18)


def test_every_schedule_has_its_options():
    with np.load(TABLES / "schedules.npz") as published:
        assert set(published) == set(read("schedules"))
