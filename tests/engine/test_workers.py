"""Threads that share a batch: every part is worked on once, and not where the caller is."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref

import pytest

from mpt.engine.workers import Workers

on_linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux places threads")


@pytest.fixture
def everywhere():
    """The processors that this process may use, which the calling thread has again afterwards."""
    allowed = os.sched_getaffinity(0)
    yield allowed
    os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("parts", [0, 1, 2, 50])
def test_every_part_is_worked_on_once(count, parts):
    workers, done = Workers(count), []
    for _ in range(3):
        done.clear()
        workers.share(done.append, range(parts))
        assert sorted(done) == list(range(parts))
    assert len(workers.ids) <= (count if parts > 1 else 0)


def test_what_fails_in_another_thread_is_raised():
    caller = threading.get_ident()

    def work(part):
        if threading.get_ident() != caller:
            raise ZeroDivisionError(part)
        time.sleep(0.05)

    with pytest.raises(ZeroDivisionError):
        Workers(1).share(work, range(20))


def test_threads_end_with_what_made_them():
    workers = Workers(2)
    workers.share(lambda _: time.sleep(0.02), range(3))
    gc.disable()
    try:
        ended = weakref.ref(workers)
        del workers
        assert ended() is None
    finally:
        gc.enable()


@on_linux
def test_threads_keep_off_the_processor_of_the_caller(everywhere):
    if len(everywhere) < 2:
        pytest.skip("this process may use one processor")
    workers = Workers(1)
    workers.share(lambda _: time.sleep(0.02), range(2))  # the thread begins
    for own in sorted(everywhere)[:2]:
        os.sched_setaffinity(0, {own})
        workers.share(lambda _: None, range(2))  # one processor: the thread stays where it was
        os.sched_setaffinity(0, everywhere)
        workers.share(lambda _: None, range(2))
        [thread] = workers.ids
        placed = os.sched_getaffinity(thread)
        assert len(placed) == len(everywhere) - 1
        assert placed < everywhere


@on_linux
def test_one_processor_is_enough(everywhere):
    os.sched_setaffinity(0, {min(everywhere)})
    workers, done = Workers(2), []
    for _ in range(2):
        workers.share(done.append, range(9))
    assert sorted(done) == sorted([*range(9)] * 2)
    assert all(os.sched_getaffinity(thread) == {min(everywhere)} for thread in workers.ids)
