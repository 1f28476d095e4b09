"""`fit` in processes of its own: killed at any moment, and several at once.

Run as a script, this file is what those processes execute.
"""

import contextlib
import csv
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fastvim.training import Recipe, fit
from fastvim.training.curves import Curves

RECIPE = Recipe(
    epochs=5, warmup_epochs=1, batch_size=8, base_lr=0.1, checkpoint_every_steps=4, num_workers=2
)
RECIPES = {
    "adamw": RECIPE,
    "ema": replace(RECIPE, ema_decay=0.9),
    "layer-decay": replace(RECIPE, layer_decay=0.5, ema_decay=0.5, warmup_endpoint=False),
    "sgd": replace(RECIPE, optimizer="sgd", decay="all", ema_decay=0.9),
}
STEPS = 30
# on CPUs, which processes may share, whatever the machine has
SHARED_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


class Images:
    """Random images of three channels and the quadrant that is brightest.

    With `noise`, another one each time that an image is read.
    """

    def __init__(self, *, noise: bool, in_processes: bool) -> None:
        self.noise, self.in_processes = noise, in_processes
        generator = torch.Generator().manual_seed(0)
        self.image = torch.randn(50, 3, 8, 8, generator=generator, dtype=torch.float64)
        means = self.image.mean(1).unflatten(1, (2, 4)).unflatten(3, (2, 4)).mean((2, 4))
        self.quadrant = means.flatten(1).argmax(1)

    def __len__(self) -> int:
        return len(self.image)

    def get_batch(self, indices: np.ndarray, seed: int) -> dict[str, torch.Tensor]:
        image = self.image[indices]
        if self.noise:
            image += 0.1 * torch.randn(
                image.shape, generator=torch.Generator().manual_seed(seed), dtype=image.dtype
            )
        return {"image": image, "quadrant": self.quadrant[indices]}


class SampledChannels(nn.Module):
    """Draws channels and drops activations from the global generators, as real models do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.Dropout(0.3), nn.AvgPool2d(3)
        )
        self.head = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            keep = torch.randperm(3)[: random.randint(1, 3)]
            x = x * torch.zeros(3).index_fill(0, keep, 1).view(1, 3, 1, 1)
        return self.head(self.body(x).flatten(1))


class Blocks(nn.Module):
    """Blocks under the name that layer decay looks for, behind an embedding that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 8, 5, 3).requires_grad_(False)
        self.layers = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(3))
        self.head = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x)
        for layer in self.layers:
            x = x + nn.functional.gelu(layer(x))
        return self.head(x.flatten(1))


def model(*, randomness: bool) -> nn.Module:
    torch.manual_seed(0)
    return SampledChannels().double() if randomness else Blocks().double()


def sum_of(network: nn.Module) -> torch.Tensor:
    return torch.stack([parameter.sum() for parameter in network.parameters()]).sum()


def cross_entropy(network, batch):
    logits = network(batch["image"])
    return nn.functional.cross_entropy(logits, batch["quadrant"]), {"largest": logits.max()}


def noise(batch, generator):
    image = batch["image"]
    return {**batch, "image": image + 0.1 * torch.randn(image.shape, generator=generator)}


def train(
    directory: Path,
    *,
    recipe: str,
    randomness: bool,
    in_processes: bool = False,
    kill: str = "never:0",
) -> nn.Module:
    """Run `fit`, and die by SIGKILL at ``kill = "<point>:<how many times it was passed>"``."""
    point, count = kill.split(":")
    passed: dict[str, int] = {}

    def pass_by(name: str) -> bool:
        passed[name] = passed.get(name, 0) + 1
        return name == point and passed[name] == int(count)

    def die_after(name: str, function: Callable) -> Callable:
        def dying(*args, **options):
            result = function(*args, **options)
            if pass_by(name):
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return dying

    def save_half(content, file, save=torch.save, **pickling_a_tensor):
        save(content, file, **pickling_a_tensor)
        if not pickling_a_tensor and pass_by("half-written"):
            file.truncate(file.tell() // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save_half
    Path.replace = die_after("renamed", Path.replace)
    Curves.sync = die_after("synced", Curves.sync)
    network = model(randomness=randomness)
    fit(
        network,
        Images(noise=randomness, in_processes=in_processes),
        RECIPES[recipe],
        loss=die_after("loss", cross_entropy),
        directory=directory,
        validate=die_after("validate", lambda network: {"sum": float(sum_of(network))}),
        on_batch=noise if randomness else None,
    )
    return network


def attempt(directory: Path, *, processes: int, kill: str, **options) -> list[int]:
    """Train in forked processes; returns their exit codes, -9 for one that was killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            if processes > 1:
                os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}"}
                os.environ |= {"WORLD_SIZE": f"{processes}", "MASTER_ADDR": "127.0.0.1"}
                os.environ["MASTER_PORT"] = f"{port}"
            # Only the main process comes by the other points.
            spared = kill.startswith("loss") and rank < processes - 1
            train(directory, randomness=True, kill="never:0" if spared else kill, **options)
            os._exit(0)
        children.append(child)
    if kill.startswith("seconds"):
        time.sleep(float(kill.split(":")[1]))
        for child in children:
            os.kill(child, signal.SIGKILL)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def final_checkpoint(directory: Path) -> dict:
    return torch.load(directory / "checkpoints" / f"step-{STEPS:08d}.pt", weights_only=True)


def assert_bit_identical(one, other, where: str = "") -> None:
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_bit_identical(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_bit_identical(a, b, f"{where}[{index}]")
    else:
        assert one == other, where


def curve(directory: Path, name: str) -> list[dict[str, str]]:
    with (directory / name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row.pop("images_per_s", None)
    return rows


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node=2"],
    "accelerate": [
        *("accelerate.commands.launch", "--cpu"),
        *("--num_processes=2", "--num_machines=1"),
    ],
}


def run_script(*arguments: str | int | Path) -> None:
    done = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)],
        env=SHARED_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


POINTS = [
    "half-written:1",  # the checkpoint of step 0
    "loss:1",
    "renamed:1",
    "validate:1",
    "loss:3",
    "synced:1",
    "half-written:1",
    "renamed:2",
    "loss:4",
    "validate:2",
    "half-written:2",
    "loss:2",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "processes", "readers"),
    [("ema", 1, "threads"), ("adamw", 2, "threads"), ("sgd", 2, "threads")],
)
def test_killed_run_ends_bit_identical(tmp_path, recipe, processes, readers):
    """Kills at chosen points and at random moments, then a run to the end; never a torn state."""
    draw = random.Random(0)
    moments = [f"seconds:{draw.uniform(0.02, 0.3 * processes):.3f}" for _ in range(8 // processes)]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    options = (recipe, processes, readers)
    run_script("attempts", *options, straight, "never:0")
    run_script("attempts", *options, killed, *POINTS[::processes], *moments, "never:0")
    assert_same_run(killed, straight)


@pytest.mark.slow
def test_killed_run_with_worker_processes_ends_bit_identical(tmp_path):
    """As with threads, to the bit; and the workers of a killed run end themselves."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    run_script("attempts", "ema", 1, "threads", straight, "never:0")
    kills = ["loss:7", "validate:2"]
    run_script("attempts", "ema", 1, "processes", killed, *kills, "never:0")
    assert_same_run(killed, straight)
    deadline = time.monotonic() + 60
    while workers_of(killed) and time.monotonic() < deadline:
        time.sleep(1)
    assert not workers_of(killed)


def workers_of(directory: Path) -> list[int]:
    """Processes with this folder in their environment that are alive."""
    mark = f"RUN_DIRECTORY={directory}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def assert_same_run(killed: Path, straight: Path) -> None:
    assert_bit_identical(final_checkpoint(killed), final_checkpoint(straight))
    for name in ("train.csv", "validation.csv"):
        assert curve(killed, name) == curve(straight, name)
    assert [int(row["step"]) for row in curve(killed, "train.csv")] == list(range(1, STEPS + 1))
    assert len(list((killed / "checkpoints").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "recipe"),
    [("torchrun", "layer-decay"), ("torchrun", "sgd"), ("accelerate", "adamw")],
)
def test_two_processes_equal_one(tmp_path, launcher, recipe):
    done = subprocess.run(
        [sys.executable, "-m", *LAUNCHERS[launcher], __file__, "train", recipe, tmp_path / "two"],
        env=SHARED_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run_script("train", recipe, tmp_path / "one")
    one, two = (final_checkpoint(tmp_path / name) for name in ("one", "two"))
    assert ("ema" in one) == (RECIPES[recipe].ema_decay is not None)
    for kind in one.keys() & {"model", "ema"}:
        for name, weight in one[kind].items():
            # float64: only the order of the sums over samples differs.
            torch.testing.assert_close(two[kind][name], weight, rtol=1e-9, atol=1e-12, msg=name)
    for ours, theirs in zip(
        *(curve(tmp_path / d, "train.csv") for d in ("one", "two")), strict=True
    ):
        assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), rel=1e-5)
        assert float(ours["grad_norm"]) == pytest.approx(float(theirs["grad_norm"]), rel=1e-5)
    for ours, theirs in zip(
        *(curve(tmp_path / d, "validation.csv") for d in ("one", "two")), strict=True
    ):
        assert {k: float(v) for k, v in ours.items()} == pytest.approx(
            {k: float(v) for k, v in theirs.items()}, rel=1e-9
        )


def main(command: str, recipe: str, *arguments: str) -> None:
    if command == "train":
        train(Path(arguments[0]), recipe=recipe, randomness=False)
        return
    processes, readers, directory, *kills = arguments
    # Marks the workers too.
    os.environ["RUN_DIRECTORY"] = directory
    # What every run would import takes seconds: once, before the forks.
    import torch._dynamo
    import torch.utils.tensorboard  # noqa: F401

    for number, kill in enumerate(kills):
        codes = attempt(
            Path(directory),
            processes=int(processes),
            kill=kill,
            recipe=recipe,
            in_processes=readers == "processes",
        )
        if kill == "never:0":
            as_planned = not any(codes)
        else:
            as_planned = -signal.SIGKILL in codes or kill.startswith("seconds")
        if not as_planned:
            raise SystemExit(f"attempt {number}, {kill}: exit codes {codes}")


if __name__ == "__main__":
    main(*sys.argv[1:])
