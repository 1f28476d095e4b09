"""Every model through torch.compile in one graph, and through torch.export."""

import importlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fastvim

SMALL = {"img_size": 32, "embed_dim": 16, "depth": 2, "patch_size": 8}
HEAD = {"num_classes": 3, "drop_path_rate": 0.5}
CHANNELS = {**HEAD, "in_chans": 4, "hcs": False}
IMAGE_MODELS = {
    "fastvim": lambda: fastvim.FastVim(**SMALL, **HEAD),
    "vim_middle": lambda: fastvim.Vim(**SMALL, **HEAD),
    "vim_head": lambda: fastvim.Vim(**SMALL, **HEAD, class_token="head"),
    "vim_no_class_token": lambda: fastvim.Vim(**SMALL, **HEAD, class_token="none"),
    "fastchannelvim": lambda: fastvim.FastChannelVim(**SMALL, **CHANNELS),
    "fastchannelvim_2d": lambda: fastvim.FastChannelVim(**SMALL, **CHANNELS, compress_2d=True),
    "channelvim": lambda: fastvim.ChannelVim(**SMALL, **CHANNELS),
    "fastvim_dense": lambda: fastvim.DenseFastVim(**SMALL, out_indices=(0, 1)),
    "vim_dense": lambda: fastvim.DenseVim(**SMALL, out_indices=(0, 1)),
}
MASKED_MODELS = {
    "fastmaskvim": lambda: fastvim.FastMaskVim(**SMALL, decoder_embed_dim=16, decoder_depth=1),
    "maskvim": lambda: fastvim.MaskVim(**SMALL, decoder_embed_dim=16, decoder_depth=1),
}
MODELS = IMAGE_MODELS | MASKED_MODELS


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


def compiled(function, **options):
    return torch.compile(function, **{"fullgraph": True, "backend": "aot_eager", **options})


def images(model, batch=2, size=(32, 32)):
    return torch.randn(batch, model.in_chans, *size)


def outputs(function, *inputs):
    """All outputs, with the same random numbers every time."""
    torch.manual_seed(1)
    out = function(*inputs)
    return [out] if isinstance(out, torch.Tensor) else list(out)


def outputs_and_gradients(function, parameters, *inputs):
    out = outputs(function, *inputs)
    loss = sum(tokens.square().mean() for tokens in out)
    return [*out, *torch.autograd.grad(loss, [p for p in parameters if p.requires_grad])]


def same(got, want):
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_training_in_one_graph(name):
    model = MODELS[name]().train()
    inputs = (list(model.parameters()), images(model))
    same(
        outputs_and_gradients(compiled(model), *inputs),
        outputs_and_gradients(model, *inputs),
    )


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_no_operator_is_first_met_behind_many_blocks(name):
    """Where Inductor before PyTorch 2.14 would spell out all of them, which doubles with each."""
    model = IMAGE_MODELS[name]().train()
    with Operators() as met:
        sum(out.sum() for out in outputs(model, images(model))).backward()
    start = next(index for index, name in enumerate(met.names) if "backward" in name)
    for names in (met.names[:start], met.names[start:]):
        assert set(names) == set(names[:2])


class Operators(TorchDispatchMode):
    """Names of our operators in the order in which they are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if str(function).startswith("fastvim."):
            self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["fastvim", "vim_middle"])
def test_training_with_gradient_checkpointing(name):
    model = MODELS[name]().train()
    inputs = (list(model.parameters()), images(model))
    want = outputs_and_gradients(model, *inputs)
    model.set_grad_checkpointing()
    same(outputs_and_gradients(compiled(model), *inputs), want)


@pytest.mark.parametrize("name", ["fastchannelvim", "channelvim"])
@pytest.mark.parametrize("kind", ["list", "tensor", "of_each_image"])
def test_channels(name, kind):
    model = MODELS[name]().eval()
    x = images(model)[:, :3]
    index = {
        "list": [0, 2, 3],
        "tensor": torch.tensor([0, 2, 3]),
        "of_each_image": torch.tensor([[0, 2, 3], [1, 2, 3]]),
    }[kind]
    with torch.no_grad():
        same(outputs(compiled(model), x, index), outputs(model, x, index))


@pytest.mark.parametrize("name", ["fastvim", "vim_middle"])
def test_feature_maps(name):
    model = MODELS[name]().eval()

    def maps(x):
        return model.forward_intermediates(x, [0], norm=True, intermediates_only=True)

    x = images(model)
    with torch.no_grad():
        same(outputs(compiled(maps), x), outputs(maps, x))


@pytest.mark.parametrize("name", ["fastvim", "vim_middle"])
def test_autocast(name):
    model = MODELS[name]().eval()
    x = images(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        same(outputs(compiled(model), x), outputs(model, x))


def test_a_compiled_scan_keeps_the_states_of_every_chunk(monkeypatch):
    scan = importlib.import_module("fastvim_kernels.selective_scan")
    monkeypatch.setattr(scan, "piece_elements", lambda device: 2000)
    model = MODELS["fastchannelvim"]().eval()
    x = images(model)
    parameters = list(model.parameters())
    same(
        outputs_and_gradients(compiled(model), parameters, x),
        outputs_and_gradients(model, parameters, x),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fastvim", "vim_middle"])
def test_one_graph_for_all_sizes(name):
    """Apart from the trained one, and those that are padded to whole patches."""
    model = MODELS[name]().eval()
    dynamic = compiled(model, dynamic=True)
    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for batch, size in ((2, (48, 40)), (3, (64, 56)), (5, (56, 80))):
            x = images(model, batch, size)
            same(outputs(dynamic, x), outputs(model, x))


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_export(name):
    model = MODELS[name]().eval()
    shapes = ({0: torch.export.Dim("batch")},)
    # with gradients on, as a user would; those are not needed to run it
    program = torch.export.export(model, (images(model),), dynamic_shapes=shapes).module()
    with torch.no_grad():
        for batch in (1, 5, 600):
            x = images(model, batch)
            same(outputs(program, x), outputs(model, x))


def test_exported_program_from_a_file(tmp_path):
    model = MODELS["fastvim"]().eval()
    x = images(model, 3)
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(
        torch.export.export(model, (images(model),), dynamic_shapes=shapes), tmp_path / "model.pt2"
    )
    program = torch.export.load(tmp_path / "model.pt2").module()
    same(outputs(program, x), outputs(model, x))
