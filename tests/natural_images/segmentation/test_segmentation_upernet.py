import pytest
import torch
import torch.nn.functional as F

from natural_images.errors import NaturalImagesValueError
from natural_images.segmentation.upernet import FCNHead, HeadSection, UPerHead

HEADS = HeadSection(channels=8, auxiliary_channels=4)


def maps(count=4, dim=6, side=7):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, dim, side, side + 1, generator=generator) for _ in range(count)]


def remember(name, inputs, outputs):
    def hook(module, given, output):
        inputs[name], outputs[name] = given[0], output

    return hook


def test_logits_have_the_size_of_the_maps():
    head = UPerHead(6, 4, 5, HEADS).eval()
    assert head(maps()).shape == (2, 5, 7, 8)
    assert FCNHead(6, 5, HEADS).eval()(maps()[0]).shape == (2, 5, 7, 8)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_map_counts(count):
    head = UPerHead(6, count, 5, HEADS).eval()
    given = [one.requires_grad_() for one in maps(count)]
    head(given).square().sum().backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in given)


def test_the_pyramid_flows_from_the_last_map_to_the_first():
    """The level of a map sees it and all later ones, but no earlier one."""
    head = UPerHead(6, 4, 5, HEADS).eval()
    seen = []
    for conv in head.fpn_convs:
        conv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    given = [one.requires_grad_() for one in maps()]
    head(given)
    for level, output in zip((2, 1, 0), seen, strict=True):
        gradients = torch.autograd.grad(
            output.square().sum(), given, retain_graph=True, allow_unused=True
        )
        assert [g is not None and bool(g.any()) for g in gradients] == [
            k >= level for k in range(4)
        ]


def test_maps_are_joined_in_the_order_of_the_published_weights():
    """The shallowest level first and the pooled one last; there, the map before its pools."""
    head = UPerHead(6, 4, 5, HEADS).eval()
    inputs, outputs = {}, {}
    for name, module in head.named_modules():
        module.register_forward_hook(remember(name, inputs, outputs))
    given = maps()
    head(given)
    levels = [*(outputs[f"fpn_convs.{level}"] for level in range(3)), outputs["bottleneck"]]
    assert torch.equal(inputs["fpn_bottleneck"], torch.cat(levels, dim=1))
    last, *pools = inputs["bottleneck"].split([6, 8, 8, 8, 8], dim=1)
    assert torch.equal(last, given[-1])
    for number, (side, pool) in enumerate(zip((1, 2, 3, 6), pools, strict=True)):
        pooled = outputs[f"psp_modules.{number}"]
        assert pooled.shape == (2, 8, side, side)
        spread = F.interpolate(pooled, (7, 8), mode="bilinear", align_corners=False)
        assert torch.equal(pool, spread)


def test_pooling_at_scale_1_spreads_the_mean():
    """Only the pooled path carries a change of one corner to the opposite one."""
    wide, narrow = (
        UPerHead(6, 1, 5, HeadSection(channels=8, pool_scales=scales)).eval()
        for scales in ((1,), (16,))
    )
    given = maps(1, side=16)
    changed = [given[0].clone()]
    changed[0][:, :, 0, 0] += 5
    for head, reaches in ((wide, True), (narrow, False)):
        difference = (head(given) - head(changed))[:, :, -1, -1].abs().max()
        assert (difference > 0) == reaches


def test_dropout_drops_whole_channels_in_training_only():
    head = UPerHead(6, 4, 5, HeadSection(channels=64, dropout=0.5))
    kept = []
    head.dropout.register_forward_hook(lambda module, inputs, output: kept.append(output))
    head(maps())
    empty = (kept[0] == 0).all(dim=(2, 3)).float().mean()
    assert 0.3 < empty < 0.8
    head.eval()(maps())
    assert (kept[1] == 0).all(dim=(2, 3)).float().mean() < 0.2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("channels", 0),
        ("channels", 8.0),
        ("pool_scales", ()),
        ("pool_scales", 3),
        ("pool_scales", (1, 0)),
        ("dropout", 1.0),
        ("dropout", True),
        ("auxiliary_channels", -1),
        ("auxiliary_map", -1),
        ("auxiliary_weight", -0.1),
        ("auxiliary_weight", "a lot"),
    ],
)
def test_sizes_that_cannot_be(key, value):
    with pytest.raises(NaturalImagesValueError, match=f"{key}: expected"):
        HeadSection(**{key: value})


def test_a_list_of_scales_from_yaml_is_the_same_section():
    assert HeadSection(pool_scales=[1, 2, 3, 6]) == HeadSection()
