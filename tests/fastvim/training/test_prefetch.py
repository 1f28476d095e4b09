import threading
import time

import pytest

from fastvim.training.prefetch import prefetch


def test_keeps_the_order_when_early_items_are_slow():
    def slow_first(item):
        time.sleep(0.05 if item == 0 else 0)
        return item

    assert list(prefetch(slow_first, range(20), workers=4)) == list(range(20))


def test_reads_ahead_in_threads_and_not_without_bound():
    started = []
    main = threading.get_ident()

    def record(item):
        started.append((item, threading.get_ident()))
        return item

    results = prefetch(record, range(100), workers=2)
    assert next(results) == 0
    deadline = time.monotonic() + 5
    while len(started) < 5 and time.monotonic() < deadline:
        time.sleep(0.001)
    results.close()
    assert len(started) == 5, "the one that was taken and two a worker"
    assert all(thread != main for _, thread in started)


def test_error_comes_where_the_result_would_have():
    def fails_at_three(item):
        if item == 3:
            raise OSError("chunk 3 is torn")
        return item

    results = prefetch(fails_at_three, range(10), workers=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="chunk 3 is torn"):
        next(results)


def test_no_thread_outlives_an_abandoned_run():
    results = prefetch(lambda item: item, range(100), workers=3)
    next(results)
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]
