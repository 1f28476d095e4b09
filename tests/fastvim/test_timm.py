"""timm's tools, as they treat timm's own models, on all of ours."""

import json
import math

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from timm.utils import ModelEmaV3

import fastvim
from fastvim.registry import MODELS

SMALL = {"img_size": 32, "embed_dim": 16, "depth": 4}
CLASSIFIERS = {
    "fastvim": ("fastvim_tiny_patch16_224", {}),
    "fastvim_colwise": ("fastvim_tiny_patch16_224", {"scanpath_type": "colwise"}),
    "fastvim_huge": ("fastvim_huge_patch14_224", {}),
    "vim_middle": ("vim_tiny_patch16_224", {}),
    "vim_head": ("vim_tiny_patch16_224", {"class_token": "head"}),
    "vim_no_class_token": ("vim_tiny_patch16_224", {"class_token": "none"}),
    "vim_colwise": ("vim_tiny_patch16_224", {"scanpath_type": "colwise"}),
}
OTHERS = {
    "channels": ("fastchannelvim_small_patch16", {}),
    "channels_2d": ("fastchannelvim_2d_small_patch8", {}),
    "channels_vim": ("channelvim_small_patch16", {}),
    "masked": ("fastmaskvim_base_patch16_224", {"decoder_embed_dim": 16}),
    "masked_vim": ("maskvim_base_patch16_224", {"decoder_embed_dim": 16}),
    "dense": ("fastvim_tiny_patch16_dense", {"out_indices": (1, 3)}),
    "dense_vim": ("vim_small_patch16_dense", {"out_indices": (1, 3)}),
}


@pytest.fixture(params=CLASSIFIERS)
def create(request):
    """Builds one of the image classifiers, small, through timm."""
    name, options = CLASSIFIERS[request.param]
    torch.manual_seed(0)
    return lambda **more: timm.create_model(name, **{**SMALL, **options, **more}).eval()


@pytest.fixture(params=CLASSIFIERS | OTHERS)
def create_any(request):
    """Builds one of the models, small, through timm."""
    name, options = (CLASSIFIERS | OTHERS)[request.param]
    torch.manual_seed(0)
    return lambda **more: timm.create_model(name, **{**SMALL, **options, **more}).eval()


def image(model, *, size=(32, 48), batch=2):
    return torch.randn(batch, model.in_chans, *size, generator=torch.Generator().manual_seed(1))


def loss_of(model, x):
    torch.manual_seed(2)
    output = model(x)
    if isinstance(output, list):
        return sum(tokens.square().mean() for tokens in output)
    return output[0] if isinstance(output, tuple) else output.square().mean()


def gradients(model, x):
    model.zero_grad()
    loss_of(model, x).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", MODELS)
def test_names(name):
    with torch.device("meta"):
        model = timm.create_model(name, drop_path_rate=0.1, drop_rate=0.0)
    assert isinstance(model, MODELS[name][0])
    assert model.layers.drop_path_rate == 0.1
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"][0] == model.in_chans == len(config["mean"]) == len(config["std"])
    assert math.ceil(config["input_size"][1] / model.patch_size) == model.grid[0]
    state = model.state_dict()
    assert model.pretrained_cfg["first_conv"] + ".weight" in state
    classifier = model.pretrained_cfg.get("classifier")
    assert (classifier is None) == (not hasattr(model, "num_classes"))
    if classifier is not None:
        assert len(state[classifier + ".weight"]) == model.pretrained_cfg["num_classes"]


def test_list_models():
    for family in ("fastvim*", "vim_*", "fastchannelvim*", "*maskvim*"):
        assert sorted(timm.list_models(family)) == fastvim.list_models(family)
    assert not timm.list_models("fastvim*", pretrained=True)
    own = {name for name in timm.list_models() if timm.models.is_model_in_modules(name, "registry")}
    assert own == set(MODELS)


def test_forward(create):
    model = create(num_classes=5)
    x = image(model)
    logits = model(x)
    assert logits.shape == (2, 5)
    tokens = model.forward_features(x)
    assert tokens.shape[-1] == model.num_features
    torch.testing.assert_close(model.forward_head(tokens), logits)
    pooled = model.forward_head(tokens, pre_logits=True)
    assert pooled.shape == (2, model.head_hidden_size)
    torch.testing.assert_close(model.get_classifier()(pooled), logits)
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), pooled)
    model.reset_classifier(0, "")
    assert torch.equal(model(x), tokens.flatten(1, -2))
    model.reset_classifier(7, "token")
    assert model(x).shape == (2, 7)
    assert model.num_classes == model.get_classifier().out_features == 7


@pytest.mark.parametrize("pool", ["avg", "max", "token", ""])
def test_global_pool(pool):
    model = timm.create_model("fastvim_tiny_patch16_224", **SMALL, global_pool=pool, num_classes=0)
    x = image(model)
    tokens = model.forward_features(x).flatten(1, -2)
    pooled = {"avg": tokens.mean(1), "max": tokens.amax(1), "token": tokens[:, -1], "": tokens}
    torch.testing.assert_close(model(x), pooled[pool])


def test_no_classes(create):
    model = create(num_classes=0)
    assert model(image(model)).shape == (2, 16)
    model = create(num_classes=0, global_pool="")
    assert model(image(model)).ndim == 3


@pytest.mark.parametrize("name", ["vim_tiny_patch16_224", "channelvim_small_patch16"])
def test_a_class_token_is_not_pooled(name):
    assert timm.create_model(name, **SMALL, global_pool="token").num_classes > 0
    with pytest.raises(ValueError, match=r"global_pool: .*'avg'"):
        timm.create_model(name, **SMALL, global_pool="avg")


@pytest.mark.parametrize("size", [96, (64, 32), [48, 80]])
def test_image_size(create, size):
    model = create(img_size=size, in_chans=1, num_classes=2)
    height, width = (size, size) if isinstance(size, int) else size
    for side in ((height, width), (32, 40)):
        assert model(image(model, size=side)).shape == (2, 2)


def test_backward(create_any):
    model = create_any(drop_path_rate=0.1).train()
    for name, gradient in gradients(model, image(model)).items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name


@pytest.mark.parametrize("out_indices", [None, 2, (0, 2), (-3, -1)])
def test_features_only(create, out_indices):
    whole = create()
    model = create(features_only=True, out_indices=out_indices)
    model.load_state_dict({f"model.{k}": v for k, v in whole.state_dict().items()}, strict=False)
    blocks = {None: (0, 1, 2, 3), 2: (2, 3), (-3, -1): (1, 3)}.get(out_indices, out_indices)
    patch = whole.patch_size
    assert model.feature_info.channels() == [16] * len(blocks)
    assert model.feature_info.reduction() == [patch] * len(blocks)
    assert model.feature_info.module_name() == [f"layers.{block}" for block in blocks]
    assert len(model.model.layers) == max(blocks) + 1
    x = torch.randn(2, 3, 40, 64)
    maps = model(x)
    assert [m.shape for m in maps] == [(2, 16, -(-40 // patch), -(-64 // patch))] * len(blocks)
    want = whole.forward_intermediates(x, blocks, intermediates_only=True)
    assert all(map(torch.equal, maps, want))
    want = whole.forward_intermediates(x, blocks, norm=True, intermediates_only=True)
    normed = timm.models._features.FeatureGetterNet(whole, blocks, norm=True)
    assert all(map(torch.equal, normed(x), want))


def test_default_features_are_four_depths():
    with torch.device("meta"):
        for depth, blocks in ((24, [5, 11, 17, 23]), (48, [11, 23, 35, 47]), (2, [0, 1])):
            model = timm.create_model("vim_tiny_patch16_224", depth=depth, features_only=True)
            assert model.out_indices == blocks


def test_forward_intermediates(create):
    model = create()
    x = image(model)
    tokens, maps = model.forward_intermediates(x)
    assert torch.equal(tokens, model.forward_features(x))
    assert len(maps) == 4
    for indices, blocks in ((2, (2, 3)), ([0, -2], (0, 2)), ([3, 1], (1, 3))):
        final, some = model.forward_intermediates(x, indices)
        assert torch.equal(final, tokens)
        only = model.forward_intermediates(x, indices, intermediates_only=True, stop_early=True)
        for block, got, alone in zip(blocks, some, only, strict=True):
            assert torch.equal(got, maps[block])
            assert torch.equal(alone, maps[block])
    patches = model.forward_intermediates(x, 1, True, intermediates_only=True, output_fmt="NLC")[0]
    features = tokens.flatten(1, -2)
    if model.class_token != "none":
        place = features.shape[1] // 2 if model.class_token == "middle" else 0
        features = torch.cat([features[:, :place], features[:, place + 1 :]], 1)
    if not (model.sequential and model.colwise):  # there the sequence runs down the columns
        torch.testing.assert_close(patches, features)
    (by_rows,) = model.forward_intermediates(x, 1, True, False, "NHWC", True)
    assert torch.equal(by_rows.flatten(1, 2), patches)
    (by_feature,) = model.forward_intermediates(x, 1, True, False, "NCHW", True)
    assert torch.equal(by_feature.permute(0, 2, 3, 1), by_rows)
    with pytest.raises(ValueError, match=r"output_fmt: .*'NCL'"):
        model.forward_intermediates(x, output_fmt="NCL")
    for wrong in (0, 5, [4], [-5], []):
        with pytest.raises(IndexError, match=r"blocks 0..3"):
            model.forward_intermediates(x, wrong)


def test_stop_early_leaves_later_blocks_alone(create):
    model = create()
    model.layers[2].forward = None
    tokens, maps = model.forward_intermediates(image(model), [1], norm=True, stop_early=True)
    if model.class_token == "none" and not (model.sequential and model.colwise):
        torch.testing.assert_close(tokens.flatten(1, -2), maps[0].flatten(2).mT)
    with pytest.raises(TypeError):
        model.forward_intermediates(image(model), [1])


@pytest.mark.parametrize("dtype", ["bfloat16", "autocast"])
@pytest.mark.parametrize("norm", [False, True])
def test_half_precision_maps(create, dtype, norm):
    model = create()
    x = image(model)
    exact = model.forward_intermediates(x, norm=norm, intermediates_only=True)
    if dtype == "bfloat16":
        model, x = model.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "autocast"):
        maps = model.forward_intermediates(x, norm=norm, intermediates_only=True)
    for got, want in zip(maps, exact, strict=True):
        assert (got.float() - want).abs().max() < 0.05 * want.abs().max()


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("training", [True, False])
def test_gradient_checkpointing(create_any, rate, training):
    model = create_any(drop_path_rate=rate).train(training)
    x = image(model, batch=3)
    weights = {p.data_ptr() for p in model.parameters()}
    kept, found = [], []
    for enabled in (False, True):
        model.set_grad_checkpointing(enabled)
        saved = {}

        def note(tensor, saved=saved):
            saved[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            found.append(gradients(model, x))
        kept.append(sum(size for place, size in saved.items() if place not in weights))
    plain, recomputed = found
    assert plain.keys() == recomputed.keys()
    for name, gradient in recomputed.items():
        assert torch.equal(gradient, plain[name]), name
    assert kept[1] < 0.5 * kept[0]


def test_layer_decay(create_any):
    model = create_any()
    groups = param_groups_layer_decay(model, no_weight_decay_list=model.no_weight_decay())
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        first, *rest = name.split(".")
        layer = {"layers": 1 + int(rest[0])} if first == "layers" else {"norm_f": 4}
        stem = first in ("patch_embed", "pos_embed", "cls_token")
        assert scale[id(parameter)] == 0.75 ** (5 - (0 if stem else layer.get(first, 5))), name
        assert (decay[id(parameter)] == 0) == (
            parameter.ndim == 1 or name in ("pos_embed", "cls_token")
        ), name
    for coarse in (False, True):
        assert len(timm.models.group_parameters(model, model.group_matcher(coarse))) >= 5
        timm.models.group_modules(model, model.group_matcher(coarse))


def test_optimizer_and_average(create_any):
    model = create_any().train()
    average = ModelEmaV3(model, decay=0.5)
    for options in ({"weight_decay": 0.05}, {"weight_decay": 0.05, "layer_decay": 0.7}):
        optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-2, **options)
        loss_of(model, image(model)).backward()
        optimizer.step()
        average.update(model)
    assert not torch.equal(average.module.layers[0].mixer.D, model.layers[0].mixer.D)


def test_checkpoint_files(create_any, tmp_path):
    model = create_any()
    x = image(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    for name in ("weights.safetensors", "weights.pth"):
        path = str(tmp_path / name)
        assert torch.equal(loss_of(create_any(checkpoint_path=path), x), loss_of(model, x))
        other = create_any()
        timm.models.load_checkpoint(other, path)
        assert torch.equal(loss_of(other, x), loss_of(model, x))
        overlaid = create_any(pretrained=True, pretrained_cfg_overlay={"file": path})
        assert torch.equal(loss_of(overlaid, x), loss_of(model, x))


def test_pretrained_weights_for_other_classes(create, tmp_path):
    model = create()
    path = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), path)
    overlay = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(path)}}
    tuned = create(**overlay, num_classes=3)
    assert tuned.head.out_features == 3
    assert torch.equal(tuned.layers[1].mixer.D, model.layers[1].mixer.D)
    features = create(**overlay, features_only=True)
    x = image(model)
    want = model.forward_intermediates(x, intermediates_only=True)
    assert all(map(torch.equal, features(x), want))


def test_no_hosted_weights(create_any):
    with pytest.raises(RuntimeError, match=r"no weights are hosted.*load_published"):
        create_any(pretrained=True)


def test_unknown_options(create_any):
    with pytest.raises(TypeError, match="embed_dims"):
        create_any(embed_dims=16)
    with pytest.raises(TypeError, match="drop_path_rate"):
        create_any(drop_rate=0.1)
    with pytest.raises((ValueError, TypeError), match="'catavgmax'"):
        create_any(global_pool="catavgmax")


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_features_are_for_image_classifiers(options):
    with pytest.raises(TypeError, match="features_only"):
        timm.create_model(options[0], features_only=True)


def test_saved_options_follow_the_head(create_any, tmp_path):
    model = create_any()
    if not hasattr(model, "num_classes"):
        assert not hasattr(model, "reset_classifier")
        return
    for classes, pool in ((3, None), (0, None), (4, "token")):
        model.reset_classifier(classes, pool)
        model.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["num_classes"] == classes
        again = type(model).from_pretrained(tmp_path)
        assert torch.equal(again(image(model)), model(image(model)))
