"""One function over many items, on one core or several, with a progress bar."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from rich.progress import track

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], *, jobs: int, description: str
) -> Iterator[Result]:
    """Yield ``function(item)`` in the order of `items`, at most `jobs` at a time.

    With more than one job the function runs in spawned processes (the zarrs codec must not be
    forked), so it and its items must be picklable; an exception in one of them is raised here.
    """
    if jobs <= 1 or len(items) <= 1:
        yield from track(map(function, items), description, total=len(items))
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(items)), mp_context=spawn) as pool:
        try:
            yield from track(pool.map(function, items), description, total=len(items))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
