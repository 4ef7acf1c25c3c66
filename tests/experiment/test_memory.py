from __future__ import annotations

import multiprocessing
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from mpt.experiment.memory import _glibc, freed_memory_kept

pytestmark = pytest.mark.skipif(
    _glibc() is None or sys.platform != "linux", reason="the C library is not glibc, or the system has no /proc"
)
MEBI = 2**20


def resident():
    """MiB of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MEBI


def left(mebi=64):
    """MiB that are resident in addition when a tensor of so many has been made and freed."""
    before = resident()
    torch.ones(mebi * MEBI, dtype=torch.uint8)
    return resident() - before


def around(error):
    """What a tensor leaves before ``freed_memory_kept``, each of sixty inside, it itself, and a tensor after it."""
    left()  # threads and libraries
    before, start = left(), resident()
    with suppress(ZeroDivisionError), freed_memory_kept():
        inside = [left() for _ in range(60)]
        if error:
            1 / 0  # noqa: B018
    behind = resident() - start
    return before, inside, behind, left(1024)  # for which nothing that was freed has room


@pytest.mark.parametrize("error", [False, True])
def test_inside_freed_memory_is_used_again_and_outside_it_is_given_back(error):
    # in a process of its own: what the heap of this one has room for depends on the tests before
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        before, inside, behind, after = pool.submit(around, error).result()
    assert before < 16
    assert inside[0] > 48
    assert sum(inside[30:]) < 16  # the first few may find the freed memory a little too small
    assert behind < 16
    assert after < 16
