"""Models against the published implementation's own numbers, every case that lies there.

The terminal summary prints one line a case and one a full-size model.
"""

import inspect
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import fastvim
import fastvim.mixer
from fastvim.traversal import KeptWalk, Traversal

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden"
CASES = sorted(path.parent.name for path in GOLDEN.glob("cases/*/data.npz"))
STRUCTURES = sorted(path.stem.removeprefix("structure_") for path in GOLDEN.glob("structure/*"))

OUTPUTS, GRADIENTS = 1e-5, 1e-4
"""Largest error, relative to the largest value of each tensor."""

CLASSES = {
    ("models.fastvim", "VisionMamba"): (fastvim.FastVim, {"final_pool_type": "none"}),
    ("models.fastvim", "MM_FastVim"): (fastvim.DenseFastVim, {}),
    ("models.vim", "VisionMamba"): (fastvim.Vim, {}),
    ("models.vim", "MM_Vim"): (fastvim.DenseVim, {}),
    ("models_channel_mamba", "VisionMamba"): (fastvim.ChannelVim, {}),
    ("models_channel_mamba_faster", "VisionMamba"): (fastvim.FastChannelVim, {}),
    ("models_channel_mamba_faster_2dcompress", "VisionMamba"): (
        fastvim.FastChannelVim,
        {"compress_2d": True},
    ),
    ("models_mamba_faster_mae_vimdecoder", "MaskedAutoencoderViM"): (
        fastvim.FastMaskVim,
        {"mirrored_rows": True},
    ),
    ("fastvim_mae", "MaskedAutoencoderViM"): (fastvim.MaskVim, {}),
}
"""Published module and class, and what they are here."""

PUBLISHED_ONLY = {
    "stride",
    "fused_add_norm",
    "residual_in_fp32",
    "ssm_cfg",
    "sort_channels",
    "if_cls_token",
    "use_middle_cls_token",
}
"""Published options without a counterpart: the stride is ignored there, and the rest is arithmetic
or is translated below."""

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

INTERPRETED = [
    "fastvim_mean",
    "fastchannelvim_2dcompress_no_rotate",
    "vim_midcls",
    "mae_fastmaskvim",
]
"""The smallest of each family, as Triton's interpreter takes seconds an image."""

SILU_IS_ONE = 1.2784645427610738

pytestmark = pytest.mark.skipif(not GOLDEN.exists(), reason=f"no golden data at {GOLDEN}")


def build(module, class_name, published):
    """Our model of a published class and its options."""
    names = [(module, class_name), (module.split(".")[-1].removesuffix("_v2"), class_name)]
    model_class, options = next(CLASSES[name] for name in names if name in CLASSES)
    options = dict(options)
    accepted = set(inspect.signature(model_class.__init__).parameters)
    accepted |= set(fastvim.encoder.EncoderOptions.__annotations__)
    for name, value in published.items():
        if name == "scan_order":
            options[name] = value.lower()
        elif name == "channels" and "Mask" not in model_class.__name__:
            options["in_chans"] = value
        elif name == "final_pool_type" and name not in accepted:
            continue
        elif name not in PUBLISHED_ONLY:
            assert name in accepted, f"{model_class.__name__} has no option {name!r}"
            options[name] = value
    if model_class is fastvim.Vim and not published.get("if_cls_token", True):
        options["class_token"] = "none"
    elif model_class in (fastvim.Vim, fastvim.ChannelVim):
        middle = published.get("use_middle_cls_token", True)
        options["class_token"] = "middle" if middle else "head"
    return model_class(**options)


def read_meta(name):
    return json.loads((GOLDEN / "cases" / name / "meta.json").read_text())


class Case:
    """One golden case: its model, its arrays and the largest errors seen."""

    def __init__(self, name):
        self.name, self.meta = name, read_meta(name)
        arrays = np.load(GOLDEN / "cases" / name / "data.npz")
        self.golden = {key: torch.from_numpy(value).to(DEVICE) for key, value in arrays.items()}
        self.drops_gate = not self.meta["kwargs"].get("use_norm_after_ssm", True)
        self.model = self.build().eval().to(DEVICE)
        weights = {k.removeprefix("state/"): v for k, v in self.golden.items() if "state/" in k}
        self.model.load_state_dict(weights)
        self.image = self.golden["input"].clone().requires_grad_()
        self.errors = {}

    def build(self):
        return build(self.meta["module"], self.meta["class"], self.meta["kwargs"])

    def run(self, image=None):
        """Call the model as the case did."""
        image = self.image if image is None else image
        model = self.model
        if isinstance(model, fastvim.FastChannelVim | fastvim.ChannelVim):
            if "channels" in self.golden:
                return model(image[:, self.golden["channels"]], self.golden["channels"])
            return model(image, range(image.shape[1]))
        if isinstance(model, fastvim.FastMaskVim | fastvim.MaskVim):
            ratio = self.meta["runner_args"]["mask_ratio"]
            return model(image, mask_ratio=ratio, noise=self.golden["noise"][: len(image)])
        return model(image)

    def compare(self, kind, key, got, limit=OUTPUTS, *, images=None):
        """Compare with a golden tensor, or with its first `images`."""
        want = self.golden[key] if images is None else self.golden[key][:images]
        assert got.shape == want.shape, f"{key}: {tuple(got.shape)}, not {tuple(want.shape)}"
        error = ((got - want).abs().max() / want.abs().max().clamp(min=1e-30)).item()
        self.errors[kind] = max(self.errors.get(kind, 0.0), error)
        assert error < limit, f"{key}: relative error {error:.1e}"


def cases(has):
    """Run a test for the cases whose description satisfies `has`."""
    metas = {name: read_meta(name) for name in CASES}
    chosen = [name for name, meta in metas.items() if "runner" in meta and has(meta)]
    return pytest.mark.parametrize("case", chosen, indirect=True)


every_case = cases(lambda meta: True)


@pytest.fixture(scope="module")
def case(request, golden_report):
    case = Case(request.param)
    case.errors = golden_report.setdefault(case.name, {})
    return case


def record(model):
    """Let the model write down what its blocks see; returns the (growing) dictionary."""
    seen = {}
    fast = not isinstance(model, fastvim.Vim | fastvim.DenseVim | fastvim.ChannelVim)

    def flat(tokens: Tensor, walk: Traversal | KeptWalk | None) -> Tensor:
        """(batch, token, dim) in the order of a walk."""
        if walk is None or tokens.ndim == 3:
            return tokens if walk is None else walk.arrange(tokens)
        return walk.arrange(tokens).flatten(1, -2)

    def block_hooks(name, block, first):
        def on_block(block, inputs, output):
            hidden, residual = output
            walk = inputs[2] or block.mixer.traversal
            seen[f"{name}.mixer_in"] = flat(block.norm(residual), walk)
            seen[f"{name}.mixer_out"] = flat(hidden, walk)
            grid = first.traversal if inputs[0].ndim > 3 and fast else None
            seen[f"{name}.hidden"] = flat(hidden, grid)
            seen[f"{name}.residual"] = flat(residual, grid)

        block.register_forward_hook(on_block)

    for stack in ("layers", "decoder_blocks"):
        for number, block in enumerate(blocks := getattr(model, stack, [])):
            block_hooks(f"{stack}.{number}", block, blocks[0].mixer)
    return seen


@every_case
def test_outputs(case):
    seen = record(case.model)
    output = case.run()
    compare = {"mm": compare_maps, "mae": compare_reconstruction}.get(
        case.meta["runner"], compare_logits
    )
    compare(case, output)
    if not (case.drops_gate and isinstance(case.model, fastvim.Vim)):  # those of the other path
        for key in case.golden:
            name = key.removeprefix("intermediate/")
            if name in seen and key.startswith("intermediate/"):
                case.compare("blocks", key, seen[name])


def compare_logits(case, output):
    plain = "logits"
    if case.drops_gate and isinstance(case.model, fastvim.Vim):
        plain = "logits_fastpath"  # of the two published paths the one that keeps the gate
    case.compare("outputs", plain, output)
    if not case.drops_gate and "logits_fastpath" in case.golden:
        case.compare("outputs", "logits_fastpath", output)
    head, case.model.head = case.model.head, torch.nn.Identity()
    case.compare("outputs", plain.replace("logits", "features"), case.run())
    case.model.head = head


def compare_maps(case, output):
    for number, tokens in enumerate(output):
        case.compare("maps", f"feat/{number}", tokens)


def compare_reconstruction(case, output):
    loss, pred, mask = output
    latent, masking = case.model.forward_encoder(
        case.image, case.meta["runner_args"]["mask_ratio"], case.golden["noise"]
    )
    case.compare("outputs", "mask", mask)
    case.compare("outputs", "latent", latent)
    case.compare("outputs", "ids_keep", masking.kept)
    case.compare("outputs", "ids_restore", masking.restore)
    for path in ("", "_v2", "_fastpath"):
        if f"loss{path}" in case.golden:
            case.compare("outputs", f"loss{path}", loss)
            case.compare("outputs", f"pred{path}", pred)
    normed = case.model.norm_pix_loss
    case.model.norm_pix_loss = not normed
    case.compare("outputs", "loss_norm_pix_toggled", case.run()[0])
    case.model.norm_pix_loss = False
    case.compare("outputs", "target", case.model.target(case.image))
    case.model.norm_pix_loss = normed
    fresh = case.build().to(DEVICE)
    case.compare("outputs", "init/pos_embed", fresh.pos_embed)
    case.compare("outputs", "init/decoder_pos_embed", fresh.decoder_pos_embed)


@pytest.mark.slow
@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="on a GPU every case runs as Triton kernels"
)
@pytest.mark.parametrize("case", INTERPRETED, indirect=True)
def test_first_image_by_interpreted_triton_kernels(case, monkeypatch):
    monkeypatch.setenv("FASTVIM_BACKEND", "triton")
    seen = record(case.model)
    with torch.no_grad():
        output = case.run(case.image[:1])
    if case.meta["runner"] == "mae":
        case.compare("triton", "pred", output[1], images=1)
    else:
        case.compare("triton", "logits", output, images=1)
    for name in seen.keys() & {key.removeprefix("intermediate/") for key in case.golden}:
        case.compare("triton", f"intermediate/{name}", seen[name], images=1)


@cases(lambda meta: meta["runner_args"].get("other_inputs"))
def test_other_input_sizes(case):
    for other in case.meta["runner_args"]["other_inputs"]:
        for number, tokens in enumerate(case.run(case.golden[other])):
            case.compare("maps", f"feat_{other}/{number}", tokens)


@cases(lambda meta: not meta["kwargs"].get("use_norm_after_ssm", True))
def test_published_path_that_drops_the_gate(case, monkeypatch):
    """With SiLU(z) set to 1 the other published path is reproduced too."""
    gated = fastvim.mixer.mix

    def ungated(xz, *rest):
        x, z = xz.chunk(2, dim=-1)
        return gated(torch.cat([x, torch.full_like(z, SILU_IS_ONE)], dim=-1), *rest)

    monkeypatch.setattr(fastvim.mixer, "mix", ungated)
    key = "logits" if isinstance(case.model, fastvim.Vim) else "logits_fastpath"
    case.compare("ungated", key, case.run())


@cases(lambda meta: meta["runner_args"].get("pools"))
def test_final_pooling(case):
    kept = case.model.final_pool_type
    for pool in case.meta["runner_args"]["pools"]:
        case.model.final_pool_type = pool
        case.compare("outputs", f"logits_pool_{pool}", case.run())
    case.model.final_pool_type = kept


@cases(lambda meta: meta["runner_args"].get("grads"))
def test_gradients(case):
    output = case.run()
    runner = case.meta["runner"]
    if runner == "mae":
        loss = output[0]
    elif runner == "mm":
        loss = sum(tokens.pow(2).mean() for tokens in output)
    else:
        loss = output.pow(2).mean()
    case.compare("outputs", "loss", loss)
    loss.backward()
    parameters = dict(case.model.named_parameters()) | {"input": case.image}
    for key in case.golden:
        if key.startswith("grad/"):
            gradient = parameters[key.removeprefix("grad/")].grad
            case.compare("gradients", key, gradient, limit=GRADIENTS)


def full_size(described):
    """Our model of a published full-size one, on no device."""
    if described["function"].startswith("MM_"):
        return build(described["module"], described["function"], described["kwargs"])
    family, size = re.fullmatch(
        r"(?P<family>.*?)(?:_v2)?_(?P<size>tiny|small|base|large|huge).*", described["model"]
    ).groups()
    family = {
        "mae_fastvim": "fastmaskvim",
        "mae_vim": "maskvim",
        "fastchannelvim_2dcompress": "fastchannelvim_2d",
    }.get(family, family)
    patch = described["params"]["patch_embed.proj.weight"][-1]
    (name,) = (n for n in fastvim.list_models(f"{family}_{size}_patch{patch}*") if "dense" not in n)
    overrides = {"img_size": described["kwargs"].get("img_size", 224)}
    return fastvim.create_model(name, **overrides)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_parameter_names_and_shapes(structure, golden_report):
    described = json.loads((GOLDEN / "structure" / f"structure_{structure}.json").read_text())
    with torch.device("meta"):
        model = full_size(described)
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    assert shapes == described["params"]
    fixed = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert fixed == set(described["requires_grad_false"])
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == described["total_params"]
    golden_report[structure] = {"parameters": count}


DROP_PATH = json.loads((GOLDEN / "tables" / "drop_path.json").read_text()) if CASES else {}
FAMILIES = {
    "fastvim": fastvim.FastVim,
    "vim": fastvim.Vim,
    "channel_baseline": fastvim.ChannelVim,
    "fastchannel": fastvim.FastChannelVim,
}


@pytest.mark.parametrize("entry", DROP_PATH)
def test_drop_path_rates(entry):
    family, depth, rate = re.fullmatch(r"(.*)_depth(.*)_rate(.*)", entry).groups()
    model = FAMILIES[family](
        img_size=32, embed_dim=16, depth=int(depth), drop_path_rate=float(rate)
    )
    assert [layer.drop_rate for layer in model.layers] == pytest.approx(DROP_PATH[entry]["layers"])
    assert model.layers.drop_path_rate == DROP_PATH[entry]["final"]
