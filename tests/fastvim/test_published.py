"""Published checkpoint files: recognised, refused, and loaded into this and other models."""

import argparse
import collections
import json
import os
import pathlib
import re
import warnings

import numpy as np
import pytest
import safetensors.torch
import torch

import fastvim
from fastvim.positions import resize_positions

GOLDEN = pathlib.Path(__file__).parents[2].parent / "shared" / "golden"
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 4}


def randomise(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


MODELS = {
    "fastvim": lambda: fastvim.FastVim(num_classes=5, **SMALL),
    "fastvim_no_norm_layer_scale": lambda: fastvim.FastVim(
        num_classes=5, use_norm_after_ssm=False, init_layer_scale=0.1, rms_norm=False, **SMALL
    ),
    "fastvim_no_positions": lambda: fastvim.FastVim(
        num_classes=5, in_chans=1, if_abs_pos_embed=False, **SMALL
    ),
    "vim": lambda: fastvim.Vim(num_classes=5, **SMALL),
    "fastchannelvim": lambda: fastvim.FastChannelVim(in_chans=6, num_classes=5, **SMALL),
    "channelvim": lambda: fastvim.ChannelVim(in_chans=6, num_classes=5, **SMALL),
    "fastmaskvim": lambda: fastvim.FastMaskVim(
        decoder_embed_dim=32, decoder_depth=3, mirrored_rows=True, **SMALL
    ),
    "maskvim": lambda: fastvim.MaskVim(decoder_embed_dim=32, decoder_depth=1, **SMALL),
    "dense": lambda: fastvim.DenseFastVim(out_indices=(0, 1, 2, 3), **SMALL),
    "dense_last": lambda: fastvim.DenseFastVim(out_indices=(3,), rms_norm=True, **SMALL),
}


def lightning(state):
    """What a Lightning file holds beside the weights."""
    return {
        "epoch": 3,
        "state_dict": {f"backbone.{name}": value for name, value in state.items()},
        "hyper_parameters": {"lr_schedule": np.linspace(0, 1, 5), "out": pathlib.Path("runs")},
        "optimizer_states": [torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))]).state_dict()],
    }


def run(model, seed=0):
    torch.manual_seed(seed)
    image = torch.randn(2, model.options["in_chans"], 32, 32)
    with torch.no_grad():
        if isinstance(model, fastvim.FastMaskVim | fastvim.MaskVim):
            return model(image, noise=torch.rand(2, 16))[1]
        output = model(image)
        return output[-1] if isinstance(output, list) else output


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("layout", ["lightning", "bare", "safetensors", "model", "legacy"])
def test_recognises_its_own_model(name, layout, tmp_path):
    model = randomise(MODELS[name]())
    state, path = model.state_dict(), tmp_path / "file.ckpt"
    if layout == "lightning":
        torch.save(lightning(state), path)
    elif layout == "safetensors":
        path = path.with_suffix(".safetensors")
        safetensors.torch.save_file(state, path)
    elif layout == "legacy":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    else:
        torch.save({"model": state} if layout == "model" else state, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        options = {} if "positions" not in name else {"img_size": 32}
        loaded = fastvim.load_published(path, **options)
    assert type(loaded) is type(model)
    assert not loaded.training
    assert torch.equal(run(loaded), run(model))
    assert loaded.load_report.missing == loaded.load_report.unexpected == []
    loaded.save_pretrained(tmp_path / "folder")
    assert torch.equal(run(fastvim.from_pretrained(tmp_path / "folder")), run(model))


def test_prefers_averaged_weights_unless_told(tmp_path):
    plain, averaged = MODELS["fastvim"](), randomise(MODELS["fastvim"]())
    copies = {f"ema.module.{name}": value for name, value in averaged.state_dict().items()}
    content = lightning(plain.state_dict()) | {"state_dict_ema": averaged.state_dict()}
    content["state_dict"] |= copies
    torch.save(content, tmp_path / "file.ckpt")
    loaded = fastvim.load_published(tmp_path / "file.ckpt")
    assert torch.equal(run(loaded), run(averaged))
    loaded = fastvim.load_published(tmp_path / "file.ckpt", ema=False)
    assert torch.equal(run(loaded), run(plain.eval()))
    assert loaded.load_report.outside == list(copies)


def test_segmentation_checkpoint_gives_its_backbone(tmp_path):
    model = randomise(MODELS["dense"]())
    state = {f"backbone.{name}": value for name, value in model.state_dict().items()}
    heads = {"decode_head.conv_seg.weight": torch.ones(2), "auxiliary_head.bias": torch.ones(1)}
    hub = collections.defaultdict(list, lr=collections.deque([1.0]), log=argparse.Namespace(a=1))
    torch.save({"meta": {"epoch": 1}, "state_dict": state | heads, "hub": hub}, tmp_path / "f.pth")
    loaded = fastvim.load_published(tmp_path / "f.pth")
    assert torch.equal(run(loaded), run(model))
    assert loaded.load_report.outside == list(heads)


def test_what_the_file_does_not_tell_is_an_option(tmp_path):
    told = {"collapse_method": "max", "rotate_every_block": False, "scanpath_type": "colwise"}
    model = randomise(fastvim.FastVim(num_classes=5, **SMALL, **told))
    torch.save(model.state_dict(), tmp_path / "file.pt")
    assert torch.equal(run(fastvim.load_published(tmp_path / "file.pt", **told)), run(model))
    model = randomise(fastvim.Vim(num_classes=5, class_token="none", **SMALL))
    torch.save(model.state_dict(), tmp_path / "file.pt")
    assert torch.equal(run(fastvim.load_published(tmp_path / "file.pt", family="vim")), run(model))
    model = randomise(fastvim.Vim(num_classes=5, class_token="head", **SMALL))
    torch.save(model.state_dict(), tmp_path / "file.pt")
    loaded = fastvim.load_published(tmp_path / "file.pt", class_token="head")
    assert torch.equal(run(loaded), run(model))


def test_linear_probe_becomes_one_layer(tmp_path):
    model = randomise(MODELS["fastvim"]())
    probe = torch.nn.Sequential(
        torch.nn.BatchNorm1d(16, affine=False, eps=1e-6), torch.nn.Linear(16, 7)
    )
    probe(torch.randn(64, 16) * 3 + 1)
    model.head = probe.eval()
    torch.save(lightning(model.state_dict()), tmp_path / "probe.ckpt")
    loaded = fastvim.load_published(tmp_path / "probe.ckpt")
    torch.testing.assert_close(run(loaded), run(model), rtol=1e-5, atol=1e-5)


def test_pretrained_encoder_into_classifier(tmp_path):
    masked = randomise(MODELS["fastmaskvim"]())
    torch.save(lightning(masked.state_dict()), tmp_path / "mae.ckpt")
    with pytest.warns(UserWarning, match=r"missing.*head\.weight, head\.bias; unexpected.*decoder"):
        model = fastvim.load_published(tmp_path / "mae.ckpt", into="classifier", num_classes=3)
    assert model.options["scaling_factor"] == 0.25
    assert model.head.out_features == 3
    # with nothing masked and no scaling, the classifier's tokens are the encoder's
    with pytest.warns(UserWarning, match="missing"):
        model = fastvim.load_published(
            tmp_path / "mae.ckpt", into="classifier", scaling_factor=1.0, num_classes=3
        )
    image = torch.randn(2, 3, 32, 32)
    latent, _ = masked.forward_encoder(image, mask_ratio=0)
    torch.testing.assert_close(model.forward_features(image).flatten(1, 2), latent)


def test_class_token_keeps_its_position(tmp_path):
    masked = randomise(MODELS["maskvim"]())
    torch.save(masked.state_dict(), tmp_path / "mae.pt")
    with pytest.warns(UserWarning, match=r"head\.weight"):
        model = fastvim.load_published(tmp_path / "mae.pt", into="classifier", num_classes=3)
    image = torch.randn(2, 3, 32, 32)
    latent, _ = masked.forward_encoder(image, mask_ratio=0)
    torch.testing.assert_close(model.forward_features(image), latent)
    with pytest.warns(UserWarning, match="missing"):
        shifted = fastvim.load_published(
            tmp_path / "mae.pt", into="classifier", shifted_positions=True
        )
    assert torch.equal(shifted.pos_embed, masked.pos_embed)


def test_classifier_into_dense_keeps_its_norm(tmp_path):
    classifier = randomise(MODELS["fastvim"]())
    torch.save(classifier.state_dict(), tmp_path / "file.pt")
    with pytest.warns(UserWarning, match=r"missing.*outnorm_0\.weight"):
        dense = fastvim.load_published(tmp_path / "file.pt", into="dense", img_size=(48, 64))
    assert dense.out_indices == [0, 1, 2, 3]
    image = torch.randn(1, 3, 48, 64)
    tokens, positions, grid = classifier.tokens(image)
    hidden, _ = classifier.layers.states(tokens, [3], positions=positions)[0]
    normed = torch.nn.functional.layer_norm(hidden, (16,))
    # positions of 4 × 4 resized once while loading, and at run time by the classifier
    torch.testing.assert_close(dense(image)[3], dense.on_grid(normed, grid).permute(0, 3, 1, 2))
    with pytest.warns(UserWarning, match=r"layers\.0\.norm\.bias"):
        assert not fastvim.load_published(
            tmp_path / "file.pt", into="dense", rms_norm=False
        ).options["rms_norm"]


@pytest.mark.parametrize("name", ["fastvim", "vim"])
def test_image_weights_into_channel_model(name, tmp_path):
    """The averaged projection sees in one channel what all three saw in a grey image."""
    image_model = randomise(MODELS[name]())
    torch.save(image_model.state_dict(), tmp_path / "file.pt")
    with pytest.warns(UserWarning, match=r"channel_embed"):
        model = fastvim.load_published(tmp_path / "file.pt", into="channels", in_chans=5)
    assert isinstance(model, fastvim.FastChannelVim if name == "fastvim" else fastvim.ChannelVim)
    assert model.head.out_features == 161
    with torch.no_grad():
        model.patch_embed.channel_embed.weight.zero_()
        image_model.patch_embed.proj.weight /= 3
    grey = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(
        model.embed(grey, [4])[0],
        image_model.forward_head(
            image_model.forward_features(grey.expand(-1, 3, -1, -1)), pre_logits=True
        ),
        rtol=1e-4,
        atol=1e-5,
    )


def test_other_classes_and_sizes(tmp_path):
    model = randomise(MODELS["fastvim"]())
    torch.save(model.state_dict(), tmp_path / "file.pt")
    with pytest.warns(UserWarning, match=r"missing.*head\.weight, head\.bias; unexpected.*none"):
        assert run(fastvim.load_published(tmp_path / "file.pt", num_classes=9)).shape == (2, 9)
    bigger = fastvim.load_published(tmp_path / "file.pt", img_size=(40, 64))
    image = torch.randn(1, 3, 40, 64)
    torch.testing.assert_close(bigger(image), model(image))
    with pytest.warns(UserWarning, match=r"patch_embed\.proj\.bias"):
        fastvim.load_published(tmp_path / "file.pt", patch_size=4, img_size=32)


def test_positions_of_a_non_square_image(tmp_path):
    model = randomise(fastvim.FastVim(**SMALL | {"img_size": (16, 48)}, num_classes=5))
    torch.save(model.state_dict(), tmp_path / "file.pt")
    with pytest.raises(ValueError, match="12 positions are no square grid"):
        fastvim.load_published(tmp_path / "file.pt")
    for option in ({"trained_img_size": (16, 48)}, {"img_size": (16, 48)}):
        loaded = fastvim.load_published(tmp_path / "file.pt", **option)
        assert torch.equal(run(loaded), run(model))
    with pytest.raises(ValueError, match=r"4 × 4 patches of 8 px, but the file holds 12"):
        fastvim.load_published(tmp_path / "file.pt", trained_img_size=32)


def test_refusals_name_file_value_and_remedy(tmp_path):
    path = tmp_path / "file.pt"
    with pytest.raises(FileNotFoundError, match=re.escape(str(path))):
        fastvim.load_published(path)
    path.write_text("not a checkpoint")
    with pytest.raises(ValueError, match=r"file\.pt: not a checkpoint"):
        fastvim.load_published(path)
    torch.save({"epoch": 1}, path)
    with pytest.raises(ValueError, match="no tensors"):
        fastvim.load_published(path)
    torch.save({"blocks.0.attn.weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"expected a FastVim.*blocks\.0\.attn"):
        fastvim.load_published(path)
    state = MODELS["fastvim"]().state_dict()
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"pos_embed has shape \(1, 16, 16\).*needs \(1, 16, 32"):
        fastvim.load_published(path, embed_dim=32)
    with pytest.raises(ValueError, match="expected one of"):
        fastvim.load_published(path, into="detector")
    with pytest.raises(TypeError, match="colour"):
        fastvim.load_published(path, colour="red")
    del state["layers.2.mixer.in_proj.weight"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"incomplete.*layers\.2\.mixer\.in_proj\.weight"):
        fastvim.load_published(path)
    torch.save(MODELS["vim"]().state_dict(), path)
    with pytest.raises(ValueError, match="has a class token"):
        fastvim.load_published(path, family="fastvim")
    torch.save(MODELS["channelvim"]().state_dict(), path)
    with pytest.raises(ValueError, match="one channel"):
        fastvim.load_published(path, into="classifier")


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.system, eval, exec])
def test_runs_nothing_that_a_file_brings(function, tmp_path):
    touched = tmp_path / "touched"
    command = f"touch {touched}" if function is os.system else f"open({str(touched)!r}, 'w')"
    content = lightning(MODELS["fastvim"]().state_dict()) | {"logger": Payload(function, command)}
    torch.save(content, tmp_path / "file.ckpt")
    try:
        fastvim.load_published(tmp_path / "file.ckpt")
    except ValueError as error:
        assert "If you trust the file" in str(error)  # noqa: PT017, either outcome is safe
    assert not touched.exists()
    torch.load(tmp_path / "file.ckpt", weights_only=False)
    assert touched.exists()  # so the payload is a live one


# --- against what the published loaders made of the same files


needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason=f"no golden data at {GOLDEN}")
LOADING = GOLDEN / "cases" / "checkpoint_loading"
RESULTS = json.loads((LOADING / "meta.json").read_text())["results"] if LOADING.exists() else {}


@pytest.fixture(scope="module")
def golden():
    with np.load(LOADING / "data.npz") as arrays:
        return {name: torch.from_numpy(value) for name, value in arrays.items()}


def under(golden, prefix):
    return {k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)}


def described_file(golden, description):
    """The checkpoint that a description like {'state_dict': backbone.*=src/fastvim} means."""
    content = {}
    for entry, parts in re.findall(r"'(\w+)': ([^,}]+)", description):
        content[entry] = {}
        for part in parts.split(" + "):
            prefix, _, source = part.strip().rpartition("=")
            tensors = under(golden, source + "/")
            content[entry] |= {prefix.removesuffix("*") + k: v for k, v in tensors.items()}
    return content


@needs_golden
@pytest.mark.parametrize("name", RESULTS)
def test_published_loaders(name, golden, tmp_path):
    published = RESULTS[name]
    torch.save(described_file(golden, published["ckpt"]), tmp_path / "file.ckpt")
    known = ("img_size", "in_chans", "out_indices", "patch_size", "rms_norm", "scaling_factor")
    known += ("scanpath_type",)
    options = {k: v for k, v in published["kwargs"].items() if k in known}
    if "MM_" in published["loader"]:
        options |= {"into": "dense", "ema": published["kwargs"].get("load_ema", True)}
    else:
        options |= {"into": "classifier", "num_classes": 5}
        options["shifted_positions"] = "models.vim" in published["loader"]
    with pytest.warns(UserWarning, match="missing"):
        model = fastvim.load_published(tmp_path / "file.ckpt", **options)
    report = model.load_report
    assert sorted(report.missing) == sorted(published["missing"])
    outside = [name.removeprefix("backbone.") for name in report.outside]
    assert sorted(report.unexpected + outside) == sorted(published["unexpected"])
    state = model.state_dict()
    for key, want in under(golden, f"result/{name}/").items():
        torch.testing.assert_close(state[key], want, rtol=1e-5, atol=1e-6)


@needs_golden
def test_published_resizing(golden):
    positions = golden["resize/pos_3x4"]
    for key, want in under(golden, "resize/").items():
        if key == "pos_3x4":
            continue
        grid = tuple(int(side) for side in re.search(r"(\d+)x(\d+)$", key).groups())
        if "colwise" in key:  # there positions lie column by column, so 3 × 4 are 3 columns
            grid = grid[::-1]
        resized = resize_positions(positions, (3, 4), grid).flatten(1, 2)
        torch.testing.assert_close(resized, want, rtol=1e-5, atol=1e-6, msg=key)
