import importlib
import multiprocessing
import os
import pickle
import time
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch

from fastvim.training import Recipe
from fastvim.training.plan import StepPlan
from fastvim.training.reading import RepeatedReading, _Items, read_ahead


class Noise:
    """Random numbers from the seed, and the process that drew them."""

    in_processes = False

    def __len__(self) -> int:
        return 40

    def get_batch(self, indices: np.ndarray, seed: int) -> dict[str, torch.Tensor]:
        if 39 in indices and seed == 0:
            raise OSError("shard-000039.tar is torn")
        if indices[0] == 0:
            time.sleep(0.2)
        noise = torch.randn(len(indices), generator=torch.Generator().manual_seed(seed))
        process = torch.tensor([os.getpid()] * len(indices))
        return {"noise": noise, "index": torch.from_numpy(indices), "process": process}


class NoiseInProcesses(Noise):
    in_processes = True


@pytest.fixture
def here(monkeypatch):
    """This file under a name that worker processes can import."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module(Path(__file__).stem)


def read(dataset: Noise, items: Iterator, count: int) -> list[dict[str, torch.Tensor]]:
    with closing(read_ahead(dataset, items, workers=2, pin=False)) as batches:
        return [next(batches) for _ in range(count)]


@pytest.mark.slow
def test_processes_read_what_threads_read(here):
    recipe = Recipe(epochs=30, warmup_epochs=0, batch_size=8, accumulation=2)
    plan = StepPlan(recipe, samples=40, processes=1, rank=0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    items = plan.items(3)
    ours = read(here.NoiseInProcesses(), items, 30)
    assert not any(child.is_alive() for child in multiprocessing.active_children())
    assert len(list(items)) == 2 * 147 - 30 - 4, "indices are taken two a worker ahead"
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    for one, other in zip(ours, read(Noise(), plan.items(3), 30), strict=True):
        assert torch.equal(one["noise"], other["noise"])
        assert torch.equal(one["index"], other["index"])
    workers = {int(batch["process"][0]) for batch in ours}
    assert len(workers) == 2
    assert os.getpid() not in workers


@pytest.mark.slow
def test_repeated_reading_keeps_its_processes(here):
    items = [(np.arange(start, start + 10), 7) for start in (0, 10, 20)]
    kept = RepeatedReading(here.NoiseInProcesses(), items, workers=2, pin=False)
    first, second = list(kept), list(kept)
    threads = list(RepeatedReading(Noise(), items, workers=2, pin=False))
    for one, two, three in zip(first, second, threads, strict=True):
        assert torch.equal(one["noise"], two["noise"])
        assert torch.equal(one["noise"], three["noise"])
        assert torch.equal(one["index"], three["index"])
    workers = [{int(batch["process"][0]) for batch in batches} for batches in (first, second)]
    assert workers[0] == workers[1]
    del kept
    assert not any(child.is_alive() for child in multiprocessing.active_children())


@pytest.mark.slow
def test_an_error_in_a_process_comes_where_its_batch_would_have(here):
    items = [(np.arange(start, start + 10), 0) for start in (0, 10, 20, 30)]
    with closing(read_ahead(here.NoiseInProcesses(), items, workers=1, pin=False)) as batches:
        assert [int(next(batches)["index"][0]) for _ in range(3)] == [0, 10, 20]
        with pytest.raises(OSError, match=r"shard-000039\.tar is torn") as error:
            next(batches)
        assert str(error.value) == "shard-000039.tar is torn"


class TwoPartError(Exception):
    """Does not survive pickling, as its arguments are not those of its base."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")


def test_a_worker_returns_the_error_itself():
    error = _Items(Noise())[np.array([39]), 0]
    assert isinstance(error, OSError)
    sent = pickle.loads(pickle.dumps(error))
    assert (type(sent), str(sent)) == (OSError, "shard-000039.tar is torn")
    assert "get_batch" in sent.__notes__[0], "where it happened is told too"


class Torn(Noise):
    def get_batch(self, indices, seed):
        raise TwoPartError("shard-000039.tar", "is torn")


def test_an_error_that_cannot_be_sent_arrives_with_its_message():
    sent = pickle.loads(pickle.dumps(_Items(Torn())[np.array([0]), 0]))
    assert str(sent) == "TwoPartError: shard-000039.tar: is torn"


def test_what_passes_through_a_workers_pipe_is_small(here):
    dataset = here.NoiseInProcesses()
    dataset.names = np.arange(200_000)
    assert len(ForkingPickler.dumps(_Items(dataset))) < 10_000, "the pipe holds 64 KB"
