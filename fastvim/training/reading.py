"""Batches in the order of the plan, read ahead by threads or by processes."""

import pickle
import traceback
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from functools import cached_property, partial
from typing import Protocol

import numpy as np
import torch
from torch import Generator as RandomGenerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastvim.training.prefetch import prefetch

Batch = dict[str, Tensor]
Item = tuple[np.ndarray, int]


class BatchDataset(Protocol):
    """Samples that are read a batch at a time.

    `get_batch` runs in several threads at once. Where the class sets ``in_processes = True`` it
    runs in worker processes instead, which decode images on as many cores as there are workers:
    such a dataset must be picklable, open its files when it first reads them, and fit into memory
    once for each process.
    """

    def __len__(self) -> int: ...

    def get_batch(self, indices: np.ndarray, seed: int) -> Batch:
        """Read the samples at `indices` (n,) int64; the first axis of each tensor is theirs.

        `seed`, below 2³², is that of these samples in this step. All randomness must follow from
        it, and never from global generators: the batch is a function of the two arguments, or a
        run could not resume to the same weights.
        """
        ...


def read_ahead(
    dataset: BatchDataset, items: Iterable[Item], *, workers: int, pin: bool
) -> Generator[Batch]:
    """Yield the batches of `items`, (indices, seed) pairs, in order; up to two a worker wait.

    `pin` leaves tensors in page-locked memory, from where they reach a GPU while it computes. An
    error in the dataset is raised where its batch would have come; close the generator to stop the
    workers.
    """
    if getattr(dataset, "in_processes", False):
        return _raised(_loader(dataset, items, workers=workers, pin=pin, persistent=False))
    return prefetch(partial(_read, dataset, pin=pin), items, workers=workers)


def _read(dataset: BatchDataset, item: Item, *, pin: bool) -> Batch:
    batch = dataset.get_batch(*item)
    return {name: tensor.pin_memory() for name, tensor in batch.items()} if pin else batch


class RepeatedReading:
    """The same batches, in order, every time it is iterated over, as validation wants them.

    As `read_ahead`, but worker processes, which take seconds to start, stay from one time to the
    next, beside those that read for training, until this is collected.
    """

    def __init__(
        self, dataset: BatchDataset, items: Sequence[Item], *, workers: int, pin: bool
    ) -> None:
        self._dataset, self._items, self._workers, self._pin = dataset, items, workers, pin
        self._loader: DataLoader | None = None
        if getattr(dataset, "in_processes", False):
            self._loader = _loader(dataset, items, workers=workers, pin=pin, persistent=True)

    def __iter__(self) -> Generator[Batch]:
        if self._loader is not None:
            batches = _raised(self._loader)
        else:
            batches = read_ahead(self._dataset, self._items, workers=self._workers, pin=self._pin)
        with closing(batches):
            yield from batches


def _loader(
    dataset: BatchDataset, items: Iterable[Item], *, workers: int, pin: bool, persistent: bool
) -> DataLoader[Batch | Exception]:
    return DataLoader(
        _Items(dataset),
        sampler=items,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=persistent,
        # Forked workers would share this process's threads and CUDA context. A fork server's would
        # outlive a killed run, for each looks only whether its parent, the server, is alive.
        multiprocessing_context="spawn",
        # Otherwise a draw from the global generator.
        generator=RandomGenerator(),
    )


def _raised(batches: Iterable[Batch | Exception]) -> Generator[Batch]:
    for batch in batches:
        if isinstance(batch, Exception):
            raise batch
        yield batch


class _Items(Dataset[Batch | Exception]):
    """A dataset in DataLoader's terms: one (indices, seed) is one item.

    Workers find it in shared memory. Through their pipes, which hold 64 KB, a million names would
    pass when a worker has imported PyTorch, and the next would start only then.

    An exception is returned: raised, it would arrive with DataLoader's words and a traceback in
    place of its message.
    """

    def __init__(self, dataset: BatchDataset) -> None:
        pickled = np.frombuffer(pickle.dumps(dataset), dtype=np.uint8)
        self._pickled = torch.tensor(pickled).share_memory_()

    @cached_property
    def _dataset(self) -> BatchDataset:
        return pickle.loads(self._pickled.numpy())

    def __getitem__(self, item: Item) -> Batch | Exception:
        try:
            return self._dataset.get_batch(*item)
        except Exception as error:
            error.add_note(f"In a worker process:\n{traceback.format_exc()}")
            return _portable(error)


def _portable(error: Exception) -> Exception:
    """The exception, or one of its message where it does not survive the way to the parent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
