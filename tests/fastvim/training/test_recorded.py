"""Training with recorded passes against training without."""

import copy
import csv
from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

import fastvim
from fastvim.training import Recipe, fit, step
from fastvim.training.recorded import RecordedPasses, _Apart, _extent

on_a_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Images:
    """Noise in three classes; `broken_at` is the batch that cannot be read."""

    def __init__(self, broken_at=None):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(64, 3, 32, 32, generator=generator)
        self.reads, self.broken_at = 0, broken_at

    def __len__(self):
        return len(self.images)

    def get_batch(self, indices, seed):
        self.reads += 1
        if self.reads == self.broken_at:
            raise OSError("unplugged")
        return {"images": self.images[indices], "classes": torch.as_tensor(indices) % 3}


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch["images"]).float(), batch["classes"]), {}


def train(directory, *, graphed, dataset=None, **recipe):
    torch.manual_seed(0)
    model = fastvim.FastVim(
        img_size=32, patch_size=8, embed_dim=64, depth=4, num_classes=3, drop_path_rate=0.3
    )
    options = {"steps": 12, "warmup_steps": 2, "batch_size": 16, "precision": "bf16"}
    numbers = Recipe(**{**options, "checkpoint_every_steps": 3, "num_workers": 1, **recipe})
    numbers = Recipe(**{**vars(numbers), "graphed": graphed})
    place = "cuda" if torch.cuda.is_available() else "cpu"
    pixels = Images().images.to(place)
    validate = {"validate": lambda model: {"mean": float(model(pixels).float().mean())}}
    fit(model, dataset or Images(), numbers, loss=cross_entropy, directory=directory, **validate)
    with (directory / "train.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    return losses, model.state_dict()


@on_a_card
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("more", [{}, {"ema_decay": 0.9, "clip_grad_norm": 0.1}], ids=["", "ema"])
def test_learns_the_same(tmp_path, accumulation, more):
    eager, want = train(tmp_path / "a", graphed=False, accumulation=accumulation, **more)
    recorded, got = train(tmp_path / "b", graphed=True, accumulation=accumulation, **more)
    assert recorded == pytest.approx(eager, rel=1e-4)
    for name, weight in want.items():
        torch.testing.assert_close(got[name], weight, rtol=1e-3, atol=1e-4, msg=name)


@on_a_card
def test_a_killed_run_ends_with_the_same_weights(tmp_path):
    _, want = train(tmp_path / "whole", graphed=True)
    with pytest.raises(OSError, match="unplugged"):
        train(tmp_path / "killed", graphed=True, dataset=Images(broken_at=8))
    _, got = train(tmp_path / "killed", graphed=True)
    for name, weight in want.items():
        assert torch.equal(got[name], weight), name


@on_a_card
def test_the_model_has_its_own_forward_afterwards(tmp_path):
    torch.manual_seed(0)
    model = fastvim.FastVim(img_size=32, patch_size=8, embed_dim=64, depth=2, num_classes=3)
    recipe = Recipe(steps=2, warmup_steps=0, batch_size=16, graphed=True)
    fit(model, Images(), recipe, loss=cross_entropy, directory=tmp_path)
    assert "forward" not in vars(model)
    assert model(Images().images[:5].cuda()).shape == (5, 3)


@on_a_card
def test_gradients_are_those_of_ddp(tmp_path):
    """DDP has seen the parameters on another stream than the one that is recorded."""
    torch.manual_seed(0)
    plain = fastvim.FastVim(img_size=32, patch_size=8, embed_dim=64, depth=2, num_classes=3)
    plain = plain.cuda().train()
    recorded = copy.deepcopy(plain)
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("nccl", store=store, rank=0, world_size=1)
    try:
        parallel = [DistributedDataParallel(model) for model in (plain, recorded)]
        RecordedPasses(recorded)
        for _ in range(3):
            pixels = torch.randn(8, 3, 32, 32).cuda()
            for model in parallel:
                model.zero_grad()
                model(pixels).square().mean().backward()
            for one, other in zip(recorded.parameters(), plain.parameters(), strict=True):
                torch.testing.assert_close(one.grad, other.grad)
    finally:
        dist.destroy_process_group()


class Sum(torch.nn.Module):
    """Of two parameters, whose gradients are one tensor, times the input."""

    def __init__(self):
        super().__init__()
        self.one, self.other = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))

    def forward(self, x, scale=1.0):
        return {"sum": x * (self.one + self.other) * scale}


@pytest.fixture
def without_graphs(monkeypatch):
    """Run what would be recorded every time, as there is no card."""
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda run, samples: run)


@pytest.mark.parametrize(
    "more", [{}, {"accumulation": 2, "ema_decay": 0.9, "clip_grad_norm": 0.1}], ids=["", "more"]
)
def test_the_engine_takes_the_same_steps(tmp_path, without_graphs, monkeypatch, more):
    """All but the graphs themselves: what is recorded when, gradients, resuming, the end."""
    monkeypatch.setattr(step, "_has_graphs", lambda device: True)
    _, want = train(tmp_path / "plain", graphed=False, precision="no", **more)
    with pytest.raises(OSError, match="unplugged"):
        train(tmp_path / "run", graphed=True, precision="no", dataset=Images(broken_at=9), **more)
    _, got = train(tmp_path / "run", graphed=True, precision="no", **more)
    for name, weight in want.items():
        torch.testing.assert_close(got[name], weight, msg=name)


def test_gradients_lie_apart():
    one, other, unused = (torch.ones(2, requires_grad=True) for _ in range(3))
    first, second, _ = _Apart.apply(one, other, unused)
    gradients = torch.autograd.grad(((first + second) ** 2).sum(), (one, other))
    assert [gradient.tolist() for gradient in gradients] == [[4, 4]] * 2
    assert gradients[0].data_ptr() != gradients[1].data_ptr()
    long = torch.ones(4, requires_grad=True)
    whole, first, second = _Apart.apply(long, one, other)
    joined = (whole + torch.cat([first, second])).square().sum()
    ends = [_extent(v) for v in torch.autograd.grad(joined, (long, one, other))]
    assert all(end <= begin for (_, end), (begin, _) in pairwise(sorted(ends)))
    first, second, _ = _Apart.apply(one, other, unused)
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad((first + second).sum(), (one, other, unused))


def test_gives_the_model_its_forward_back(without_graphs):
    model = Sum()
    recorded = RecordedPasses(model)
    with torch.no_grad():
        assert model(torch.ones(3, 2))["sum"].tolist() == [[2, 2]] * 3
    model(torch.ones(3, 2))["sum"].sum().backward()
    assert model.one.grad.tolist() == [3, 3]
    assert model.eval()(torch.ones(1, 2), scale=2.0)["sum"].tolist() == [[4, 4]]
    recorded.close()
    assert "forward" not in vars(model)


def test_gives_a_wrapped_model_its_wrapper_back(without_graphs):
    model = Sum()
    model.forward = wrapper = torch.autocast("cpu", torch.bfloat16)(model.forward)
    recorded = RecordedPasses(model)
    model(torch.ones(3, 2))
    recorded.close()
    assert model.forward is wrapper


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model(torch.ones(1, 2), 0.5), "called with tensors alone, by position"),
        (lambda model: model(torch.ones(1, 2), scale=0.5), "called with tensors alone"),
        (
            lambda model: model(torch.ones(1, 2)),
            r"the inputs of the first step .*\(3, 2\).*\(1, 2\)",
        ),
        (lambda model: [model(torch.ones(3, 2)) for _ in range(2)], "before each backward pass"),
    ],
)
def test_refuses_what_a_replay_would_get_wrong(without_graphs, call, message):
    model = Sum()
    RecordedPasses(model)
    model(torch.ones(3, 2))["sum"].sum().backward()
    with pytest.raises(ValueError, match=f"'graphed': expected .*{message}.*Set it to false"):
        call(model)


def test_says_that_a_model_cannot_be_recorded(without_graphs, monkeypatch):
    def fail(run, samples):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", fail)
    model = Sum()
    RecordedPasses(model)
    with pytest.raises(
        RuntimeError, match=r"'graphed': Sum cannot be recorded: .* Set it to false"
    ):
        model(torch.ones(3, 2))
