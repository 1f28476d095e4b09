import copy
import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from fastvim.training import Recipe, averaged_weights, fit
from fastvim.training.plan import StepPlan
from fastvim.training.processes import start_accelerator
from fastvim.training.step import Stepper

RECIPE = Recipe(epochs=3, warmup_epochs=1, batch_size=8, base_lr=1.0, checkpoint_every_steps=4)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """Steps are repeated by hand on tensors that lie there, whatever the machine has."""
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors this small make threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Points:
    """Points of the plane and the side of a line they are on."""

    def __init__(self, count: int = 44) -> None:
        self.x = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
        self.side = (self.x.sum(1) > 0).long()

    def __len__(self) -> int:
        return len(self.x)

    def get_batch(self, indices: np.ndarray, seed: int) -> dict[str, torch.Tensor]:
        return {"x": self.x[indices], "side": self.side[indices]}


class NoisyPoints(Points):
    """Points that shake, each time they are read, as a function of the seed."""

    def get_batch(self, indices: np.ndarray, seed: int) -> dict[str, torch.Tensor]:
        noise = torch.randn(len(indices), 2, generator=torch.Generator().manual_seed(seed))
        return {"x": self.x[indices] + 0.1 * noise, "side": self.side[indices]}


def classifier(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 2))


def cross_entropy(model, batch):
    logits = model(batch["x"])
    right = (logits.argmax(1) == batch["side"]).float().mean()
    return nn.functional.cross_entropy(logits, batch["side"]), {"accuracy": right}


def trained(
    directory: Path,
    recipe: Recipe = RECIPE,
    dropout: float = 0.0,
    dataset: Points | None = None,
    **options,
) -> nn.Module:
    model = classifier(dropout)
    fit(model, dataset or Points(), recipe, loss=cross_entropy, directory=directory, **options)
    return model


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same(one: nn.Module, other: nn.Module, **tolerance: float) -> None:
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, **(tolerance or {"rtol": 0, "atol": 0}), msg=name)


def test_learns_and_leaves_checkpoint_and_curves(tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=20)
    model = classifier()
    path = fit(model, Points(), recipe, loss=cross_entropy, directory=tmp_path)
    assert path == tmp_path / "checkpoints" / "step-00000100.pt"
    rows = table(tmp_path / "train.csv")
    assert [int(row["step"]) for row in rows] == list(range(1, 101))
    assert [row["epoch"] for row in rows[4:6]] == ["1", "2"]
    assert float(rows[0]["lr"]) == 0
    assert float(rows[-1]["accuracy"]) == 1
    assert_same(model, stored(path))


def stored(path: Path) -> nn.Module:
    model = classifier()
    model.load_state_dict(torch.load(path, weights_only=True)["model"])
    return model


def test_one_step_is_adamw_by_hand(tmp_path):
    """One step, no warm-up, against torch's own AdamW on the whole batch."""
    recipe = Recipe(epochs=1, warmup_epochs=0, batch_size=44, base_lr=0.1, weight_decay=0.3)
    model, expected = trained(tmp_path, recipe), classifier()
    cross_entropy(expected, {"x": Points().x, "side": Points().side})[0].backward()
    matrices = [p for p in expected.parameters() if p.ndim == 2]
    vectors = [p for p in expected.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}]
    torch.optim.AdamW(groups, lr=0.1 * 44 / 256).step()
    assert_same(model, expected, rtol=1e-5, atol=1e-7)


def test_two_steps_are_sgd_by_hand(tmp_path):
    """Whole batches, a constant rate: momentum, and decay of every parameter."""
    recipe = Recipe(
        epochs=2,
        warmup_epochs=0,
        batch_size=44,
        base_lr=0.1,
        lr_scale_batch=44,
        min_lr=0.1,
        optimizer="sgd",
        momentum=0.8,
        decay="all",
        weight_decay=0.3,
        weight_decay_end=0.3,
    )
    model, expected = trained(tmp_path, recipe), classifier()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.8, weight_decay=0.3)
    for _ in range(2):
        optimizer.zero_grad()
        cross_entropy(expected, {"x": Points().x, "side": Points().side})[0].backward()
        optimizer.step()
    assert_same(model, expected, rtol=1e-5, atol=1e-7)


def test_frozen_parameters_stay(tmp_path):
    model = classifier()
    model[0].requires_grad_(False)
    before = copy.deepcopy(model)
    recipe = dataclasses.replace(RECIPE, optimizer="sgd", ema_decay=0.5)
    path = fit(model, Points(), recipe, loss=cross_entropy, directory=tmp_path)
    assert_same(model[0], before[0])
    assert not torch.equal(model[3].weight, before[3].weight)
    groups = torch.load(path, weights_only=True)["optimizer"]["param_groups"]
    assert sum(len(group["params"]) for group in groups) == 2
    assert torch.equal(averaged_weights(path)["0.weight"], before[0].weight)


def test_accumulation_equals_the_big_batch(tmp_path):
    parts = trained(tmp_path / "parts", dataclasses.replace(RECIPE, accumulation=4))
    assert_same(parts, trained(tmp_path / "whole"), rtol=1e-4, atol=1e-6)
    # AdamW's steps hardly depend on the gradient's scale, so the curves must show it.
    for name in ("loss", "accuracy", "grad_norm"):
        ours, theirs = (
            [float(row[name]) for row in table(tmp_path / run / "train.csv")]
            for run in ("parts", "whole")
        )
        assert ours == pytest.approx(theirs, rel=1e-4), name


def test_clipping_bounds_the_gradient(tmp_path):
    """With a bound far below the gradient's norm, the update is that of the scaled gradient."""
    recipe = Recipe(epochs=1, warmup_epochs=0, batch_size=44, clip_grad_norm=1e-6, weight_decay=0)
    model, expected = trained(tmp_path, recipe), classifier()
    cross_entropy(expected, {"x": Points().x, "side": Points().side})[0].backward()
    norm = nn.utils.clip_grad_norm_(expected.parameters(), 1e-6)
    torch.optim.AdamW(expected.parameters(), lr=recipe.lr, weight_decay=0).step()
    # Adam's epsilon is 1e-8, so that such small gradients change the step's size.
    assert_same(model, expected, rtol=1e-5, atol=1e-8)
    assert float(table(tmp_path / "train.csv")[0]["grad_norm"]) == pytest.approx(norm.item())
    unclipped = trained(tmp_path / "unclipped", dataclasses.replace(recipe, clip_grad_norm=None))
    assert not torch.allclose(unclipped[0].weight, model[0].weight, rtol=1e-5)


def test_bf16_trains_in_mixed_precision(tmp_path):
    seen = []

    def loss(model, batch):
        hook = model.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
        value = cross_entropy(model, batch)
        hook.remove()
        return value

    model = classifier()
    recipe = dataclasses.replace(RECIPE, precision="bf16")
    inner = []
    model[0].register_forward_hook(lambda _, __, out: inner.append(out.dtype))
    fit(model, Points(), recipe, loss=loss, directory=tmp_path)
    assert set(inner) == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert "forward" not in vars(model), "the model's own forward is back"
    assert model(torch.zeros(1, 2)).dtype == torch.float32
    assert_same(copy.deepcopy(model), model)


def test_runs_of_other_precision_follow_each_other_in_one_process(tmp_path):
    bf16 = trained(tmp_path / "bf16", dataclasses.replace(RECIPE, precision="bf16"))
    full = trained(tmp_path / "no")
    assert not torch.equal(bf16[0].weight, full[0].weight)


def test_fp16_without_gpu_is_refused(tmp_path):
    if torch.accelerator.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match="'fp16' needs a GPU, got cpu"):
        trained(tmp_path, dataclasses.replace(RECIPE, precision="fp16"))


def test_same_seed_same_weights(tmp_path):
    one, again = (trained(tmp_path / name, dropout=0.5) for name in ("one", "again"))
    other = trained(tmp_path / "other", dataclasses.replace(RECIPE, seed=1), dropout=0.5)
    assert_same(one, again)
    assert not torch.equal(one[0].weight, other[0].weight)


def test_reading_threads_do_not_change_the_result(tmp_path):
    many = trained(tmp_path / "many", dataclasses.replace(RECIPE, num_workers=5), dropout=0.5)
    assert_same(many, trained(tmp_path / "two", dropout=0.5))


class StoppedError(Exception):
    pass


def interrupted_loss(step: int):
    """The loss, which fails at its `step`-th call."""
    calls = iter(range(1, step + 1))

    def loss(model, batch):
        if next(calls) == step:
            raise StoppedError
        return cross_entropy(model, batch)

    return loss


@pytest.mark.parametrize("step", [1, 4, 5, 7, 15])
@pytest.mark.parametrize(
    "extra",
    [{}, {"ema_decay": 0.9}, {"optimizer": "sgd", "decay": "all", "ema_decay": 0.5}],
    ids=["adamw", "ema", "sgd"],
)
def test_interrupted_run_ends_with_the_same_weights(tmp_path, step, extra):
    def noise(batch, generator):
        return {**batch, "x": batch["x"] + 0.1 * torch.randn(8, 2, generator=generator)}

    def validate(model):
        return {"sum": float(sum(p.sum() for p in model.parameters()))}

    recipe = dataclasses.replace(RECIPE, **extra)
    options = {"on_batch": noise, "validate": validate, "dataset": NoisyPoints()}
    model = classifier(0.5)
    with pytest.raises(StoppedError):
        fit(
            model,
            recipe=recipe,
            loss=interrupted_loss(step),
            directory=tmp_path / "resumed",
            **options,
        )
    resumed = trained(tmp_path / "resumed", recipe, dropout=0.5, **options)
    straight = trained(tmp_path / "straight", recipe, dropout=0.5, **options)
    assert_same(resumed, straight)
    if recipe.ema_decay is not None:
        one, other = (
            averaged_weights(tmp_path / run / "checkpoints" / "step-00000015.pt")
            for run in ("resumed", "straight")
        )
        assert all(torch.equal(one[name], other[name]) for name in one)
        last = table(tmp_path / "straight" / "validation.csv")[-1]
        total = float(sum(tensor.sum() for tensor in other.values()))
        assert float(last["ema_sum"]) == pytest.approx(total, rel=1e-5)
        assert last["ema_sum"] != last["sum"]
    for name in ("train.csv", "validation.csv"):
        rows, expected = table(tmp_path / "resumed" / name), table(tmp_path / "straight" / name)
        for row in rows + expected:
            row.pop("images_per_s", None)
        assert rows == expected


def test_resume_reads_no_sample_twice(tmp_path):
    class Counting(Points):
        read = 0

        def get_batch(self, indices, seed):
            self.read += 1
            return super().get_batch(indices, seed)

    with pytest.raises(StoppedError):
        fit(classifier(), Points(), RECIPE, loss=interrupted_loss(10), directory=tmp_path)
    dataset = Counting()
    fit(classifier(), dataset, RECIPE, loss=cross_entropy, directory=tmp_path)
    assert dataset.read == 15 - 8, "eight steps were done at the last checkpoint"


def test_an_error_in_the_next_batch_costs_no_step(tmp_path):
    class Unplugged(Points):
        reads = 0

        def get_batch(self, indices, seed):
            self.reads += 1
            if self.reads == 5:
                raise OSError("unplugged")
            return super().get_batch(indices, seed)

    recipe = dataclasses.replace(RECIPE, num_workers=1)
    with pytest.raises(OSError, match="unplugged"):
        fit(classifier(), Unplugged(), recipe, loss=cross_entropy, directory=tmp_path)
    assert len(table(tmp_path / "train.csv")) == 4
    assert (tmp_path / "checkpoints" / "step-00000004.pt").exists()


def test_parts_are_prepared_in_order_and_by_their_seeds(tmp_path):
    drawn = []

    def prepare(batch, generator):
        drawn.append(float(torch.rand((), generator=generator)))
        return batch

    recipe = dataclasses.replace(RECIPE, accumulation=2)
    options = {"loss": cross_entropy, "directory": tmp_path, "on_batch": prepare}
    fit(classifier(), Points(), recipe, **options)
    plan = StepPlan(recipe, 44, 1, 0)
    seeds = [plan.seeds(step, part)[1] for step in range(15) for part in range(2)]
    assert drawn == [
        float(torch.rand((), generator=torch.Generator().manual_seed(seed))) for seed in seeds
    ]


def test_truncated_newest_checkpoint_still_ends_with_the_same_weights(tmp_path):
    with pytest.raises(StoppedError):
        fit(
            classifier(0.5),
            Points(),
            RECIPE,
            loss=interrupted_loss(10),
            directory=tmp_path / "torn",
        )
    newest = tmp_path / "torn" / "checkpoints" / "step-00000008.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.warns(RuntimeWarning, match=r"step-00000008\.pt is damaged"):
        resumed = trained(tmp_path / "torn", dropout=0.5)
    assert_same(resumed, trained(tmp_path / "straight", dropout=0.5))


def test_finished_run_only_loads_its_weights(tmp_path):
    def never(model, batch):
        raise AssertionError("a finished run trains no more")

    finished = trained(tmp_path)
    curves = (tmp_path / "train.csv").read_bytes()
    model = classifier()
    path = fit(model, Points(), RECIPE, loss=never, directory=tmp_path, validate=never)
    assert path == tmp_path / "checkpoints" / "step-00000015.pt"
    assert_same(model, finished)
    assert (tmp_path / "train.csv").read_bytes() == curves


def test_run_from_before_the_later_keys_goes_on(tmp_path):
    """A fingerprint names a later key only where it is not at its default."""
    trained(tmp_path)
    path = tmp_path / "checkpoints" / "step-00000015.pt"
    written = json.loads(torch.load(path, weights_only=True)["fingerprint"])
    assert not written.keys() & {"optimizer", "momentum", "decay", "ema_decay", "warmup_lr"}
    with pytest.raises(ValueError, match=r"ema_decay: expected None .*, got 0\.9"):
        trained(tmp_path, dataclasses.replace(RECIPE, ema_decay=0.9))


def test_speed_settings_may_change_on_resume_and_others_not(tmp_path):
    trained(tmp_path, identity={"split": "a"})
    free = {"num_workers": 1, "accumulation": 2, "graphed": True, "checkpoint_every_steps": 7}
    trained(tmp_path, dataclasses.replace(RECIPE, **free), identity={"split": "a"})
    with pytest.raises(ValueError, match=r"base_lr: expected 1\.0 \(the checkpoint's\), got 0\.2"):
        trained(tmp_path, dataclasses.replace(RECIPE, base_lr=0.2), identity={"split": "a"})
    with pytest.raises(ValueError, match="split: expected 'a'"):
        trained(tmp_path, identity={"split": "b"})
    with pytest.raises(ValueError, match="samples: expected 44"):
        fit(
            classifier(),
            Points(45),
            RECIPE,
            loss=cross_entropy,
            directory=tmp_path,
            identity={"split": "a"},
        )
    with pytest.raises(ValueError, match="model: expected 'Sequential"):
        fit(
            nn.Sequential(nn.Linear(2, 2)),
            Points(),
            RECIPE,
            loss=cross_entropy,
            directory=tmp_path,
            identity={"split": "a"},
        )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_stops_with_the_step(tmp_path, value):
    calls = iter(range(1, 100))

    def loss(model, batch):
        value_, metrics = cross_entropy(model, batch)
        return value_ * (value if next(calls) == 7 else 1), metrics

    model = classifier()
    with pytest.raises(FloatingPointError, match=rf"step 7 \(epoch 2\).*finite loss, got {value}"):
        fit(model, Points(), RECIPE, loss=loss, directory=tmp_path)
    assert (tmp_path / "checkpoints" / "step-00000004.pt").exists()
    assert all(p.isfinite().all() for p in model.parameters()), "the step was not taken"


def test_gradient_that_is_not_finite_stops_with_the_step(tmp_path):
    def loss(model, batch):
        logits = model(batch["x"])
        return (logits * 0).sqrt().mean(), {}

    with pytest.raises(FloatingPointError, match=r"step 1 \(epoch 1\).*finite grad_norm, got nan"):
        fit(classifier(), Points(), RECIPE, loss=loss, directory=tmp_path)


def test_validation_sees_evaluation_mode_and_training_goes_on_in_training_mode(tmp_path):
    modes = []

    def validate(model):
        assert not torch.is_grad_enabled()
        modes.append(model.training)
        return {"accuracy": 0.5}

    def loss(model, batch):
        assert model.training
        return cross_entropy(model, batch)

    fit(classifier(), Points(), RECIPE, loss=loss, directory=tmp_path, validate=validate)
    assert modes == [False] * 3
    rows = table(tmp_path / "validation.csv")
    assert [(row["step"], row["epoch"]) for row in rows] == [("5", "1"), ("10", "2"), ("15", "3")]


def test_error_in_the_dataset_reaches_the_caller(tmp_path):
    class Torn(Points):
        def get_batch(self, indices, seed):
            raise OSError("crops.zarr/c/3 is torn")

    with pytest.raises(OSError, match="c/3 is torn"):
        fit(classifier(), Torn(), RECIPE, loss=cross_entropy, directory=tmp_path)


def test_processes_that_do_not_work_together_are_refused(tmp_path, monkeypatch):
    start_accelerator("no")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="expected 2 processes that work together"):
        trained(tmp_path)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_how_the_optimizer_computes_is_not_restored(optimizer):
    """A checkpoint of a GPU, where AdamW is one kernel, goes on where it is not, and back."""
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer)
    plan, accelerator = StepPlan(recipe, 44, 1, 0), start_accelerator("no")
    stepper = Stepper(classifier(), plan, accelerator, loss=cross_entropy, on_batch=None)
    try:
        before, other = stepper.state(), stepper.state()
        for group in other["optimizer"]["param_groups"]:
            group["fused"] = not group["fused"]
        stepper.restore(other)
        groups = stepper.state()["optimizer"]["param_groups"]
        assert groups == before["optimizer"]["param_groups"]
    finally:
        stepper.release()
