import json
from pathlib import Path

import pytest
import torch
from torch import nn

from fastvim.training import parameter_groups

GOLDEN = Path(__file__).parents[4] / "shared/golden"


def decayed_names(model: nn.Module) -> set[str]:
    decayed, others = parameter_groups(model)
    assert "weight_decay" not in decayed, "the schedule sets it"
    assert others["weight_decay"] == 0
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)] for p in decayed["params"]}


def module_of(shapes: dict[str, list[int]]) -> nn.Module:
    """A module with empty parameters of these dotted names and shapes."""
    root = nn.Module()
    for name, shape in shapes.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(leaf, nn.Parameter(torch.empty(shape, device="meta")))
    return root


def test_biases_and_vectors_are_not_decayed():
    model = nn.Sequential(nn.Conv1d(2, 2, 3), nn.LayerNorm(2), nn.Linear(2, 1))
    assert decayed_names(model) == {"0.weight", "2.weight"}


def test_bias_of_two_axes_is_not_decayed():
    model = nn.Module()
    model.bias = nn.Parameter(torch.zeros(2, 2))
    model.table = nn.Parameter(torch.zeros(2, 2))
    assert decayed_names(model) == {"table"}


def test_frozen_parameters_are_left_out():
    model = nn.Linear(3, 2)
    model.weight.requires_grad_(False)
    decayed, others = parameter_groups(model)
    assert not decayed["params"]
    assert [p is model.bias for p in others["params"]] == [True]


def test_model_without_parameters_is_refused():
    with pytest.raises(ValueError, match="Identity has no parameters that require gradients"):
        parameter_groups(nn.Identity())


@pytest.mark.skipif(not GOLDEN.exists(), reason="the golden tables are not here")
@pytest.mark.parametrize(
    ("table", "structure"),
    [
        ("fastvim", "fastvim_tiny"),
        ("vim_midcls", "vim_tiny"),
        ("channelvim_baseline", "channelvim_small_patch16"),
        ("fastchannelvim", "fastchannelvim_small_patch16"),
        ("mae_fastmaskvim", "mae_fastvim_base"),
    ],
)
def test_equals_published_groups(table, structure):
    published = json.loads((GOLDEN / "tables/cell_get_params_groups_wd.json").read_text())[table]
    shapes = json.loads((GOLDEN / f"structure/structure_{structure}.json").read_text())["params"]
    # The table is of a model two blocks deep; its names are the first of the full-size model's.
    expected = published["regularised"]
    model = module_of({name: shapes[name] for name in expected})
    assert decayed_names(model) == {name for name, decayed in expected.items() if decayed}
