import pytest
import torch
from torch import nn

from fastvim import FastChannelVim, FastVim
from fastvim.training import layer_decay_groups, parameter_groups


def decayed_names(model: nn.Module) -> set[str]:
    decayed, others = parameter_groups(model)
    assert "weight_decay" not in decayed, "the schedule sets it"
    assert others["weight_decay"] == 0
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)] for p in decayed["params"]}


def scales_and_decays(model: nn.Module, **options: float) -> dict[str, tuple[float, float]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (group["lr_scale"], group["weight_decay"])
        for group in layer_decay_groups(model, **options)
        for p in group["params"]
    }


class Blocks(nn.Module):
    """Embeddings, `depth` blocks of one linear map, and what comes after them."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 4, 2))
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(depth))
        self.head = nn.Linear(2, 2)
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 4, 2))
        self.decoder_blocks = nn.ModuleList([nn.Linear(2, 2)])
        self.outnorm_0 = nn.LayerNorm(2)


def fastvim() -> FastVim:
    return FastVim(img_size=32, patch_size=8, depth=2, embed_dim=32, num_classes=10)


def fastchannelvim() -> FastChannelVim:
    return FastChannelVim(
        img_size=32, patch_size=8, in_chans=3, depth=2, embed_dim=32, num_classes=7
    )


def test_biases_and_vectors_are_not_decayed():
    model = nn.Sequential(nn.Conv1d(2, 2, 3), nn.LayerNorm(2), nn.Linear(2, 1))
    assert decayed_names(model) == {"0.weight", "2.weight"}


def test_bias_of_two_axes_is_not_decayed():
    model = nn.Module()
    model.bias = nn.Parameter(torch.zeros(2, 2))
    model.table = nn.Parameter(torch.zeros(2, 2))
    assert decayed_names(model) == {"table"}


def test_all_are_decayed_where_asked():
    model = nn.Sequential(nn.Conv1d(2, 2, 3), nn.LayerNorm(2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    (group,) = parameter_groups(model, decay="all")
    assert "weight_decay" not in group, "the schedule sets it"
    expected = [*model[1].parameters(), *model[2].parameters()]
    assert [id(p) for p in group["params"]] == [id(p) for p in expected]


def test_frozen_parameters_are_left_out():
    model = nn.Linear(3, 2)
    model.weight.requires_grad_(False)
    decayed, others = parameter_groups(model)
    assert not decayed["params"]
    assert [p is model.bias for p in others["params"]] == [True]


def test_model_without_parameters_is_refused():
    with pytest.raises(ValueError, match="Identity has no parameters that require gradients"):
        parameter_groups(nn.Identity())


def test_scale_falls_with_every_second_block():
    got = scales_and_decays(Blocks(4), weight_decay=0.05, layer_decay=0.5)
    assert got["pos_embed"] == (0.125, 0.05)
    scales = [got[f"layers.{i}.weight"][0] for i in range(4)]
    assert scales == [0.25, 0.25, 0.5, 0.5]
    assert got["layers.0.weight"] == (0.25, 0.05)
    assert got["layers.0.bias"] == (0.25, 0.0)


def test_what_follows_the_blocks_is_not_scaled():
    got = scales_and_decays(Blocks(4), weight_decay=0.05, layer_decay=0.5)
    after = {name for name, (scale, _) in got.items() if scale == 1}
    assert after == {
        "head.weight",
        "head.bias",
        "decoder_pos_embed",
        "decoder_blocks.0.weight",
        "decoder_blocks.0.bias",
        "outnorm_0.weight",
        "outnorm_0.bias",
    }


def test_frozen_blocks_are_left_out_but_counted():
    model = Blocks(4)
    whole = scales_and_decays(model, weight_decay=0.05, layer_decay=0.5)
    model.layers[2:].requires_grad_(False)
    got = scales_and_decays(model, weight_decay=0.05, layer_decay=0.5)
    assert got == {
        name: both
        for name, both in whole.items()
        if not name.startswith(("layers.2.", "layers.3."))
    }


def test_names_the_model_exempts_are_not_decayed():
    model = Blocks(2)
    model.no_weight_decay = lambda: {"pos_embed", "dist_token"}
    got = scales_and_decays(model, weight_decay=0.05, layer_decay=0.5)
    assert got["pos_embed"] == (0.25, 0.0)
    assert got["decoder_pos_embed"] == (1.0, 0.05), "names are matched whole"


@pytest.mark.parametrize("layer_decay", [0.0, 65.0, float("nan")])
def test_layer_decay_out_of_range_is_refused(layer_decay):
    with pytest.raises(ValueError, match="layer_decay: expected a number above 0, at most 1"):
        layer_decay_groups(Blocks(2), weight_decay=0.05, layer_decay=layer_decay)


def test_model_whose_blocks_have_another_name_is_refused():
    with pytest.raises(ValueError, match=r"Sequential has no parameters named layers\.0"):
        layer_decay_groups(nn.Sequential(Blocks(2)), weight_decay=0.05, layer_decay=0.5)


@pytest.mark.parametrize("model", [fastvim, fastchannelvim])
@pytest.mark.parametrize(
    "groups_of",
    [parameter_groups, lambda model: layer_decay_groups(model, weight_decay=0.1, layer_decay=0.5)],
    ids=["parameter_groups", "layer_decay_groups"],
)
def test_groups_hold_each_trained_parameter_of_a_model_once(model, groups_of):
    model = model()
    model.head.requires_grad_(False)
    got = [id(p) for group in groups_of(model) for p in group["params"]]
    assert sorted(got) == sorted(id(p) for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("model", [fastvim, fastchannelvim])
def test_layer_decay_finds_the_embeddings_and_blocks_of_a_model(model):
    got = scales_and_decays(model(), weight_decay=0.1, layer_decay=0.5)
    deepest = {name for name, (scale, _) in got.items() if scale == 0.25}
    assert {name for name in got if "embed" in name} == deepest
    assert {name for name, (scale, _) in got.items() if scale == 0.5} == {
        name for name in got if name.startswith("layers.")
    }
