from __future__ import annotations

import resource

import pytest
import torch

from mpt.experiment.memory import _glibc, freed_memory_kept

pytestmark = pytest.mark.skipif(_glibc() is None, reason="the C library is not glibc")
MEBI = 2**20
PAGE = resource.getpagesize()


def pages_cleared():
    """Pages that the system had to clear while tensors of 64 MiB were made and freed ten times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(64 * MEBI, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_inside_freed_memory_is_used_again_and_outside_it_is_given_back():
    assert pages_cleared() > 9 * 64 * MEBI / PAGE / 512  # or pages of 2 MiB
    with freed_memory_kept():
        pages_cleared()
        assert pages_cleared() < 64
    assert pages_cleared() > 9 * 64 * MEBI / PAGE / 512


def test_memory_is_given_back_after_an_error_too():
    with pytest.raises(ZeroDivisionError), freed_memory_kept():
        1 / 0  # noqa: B018
    assert pages_cleared() > 9 * 64 * MEBI / PAGE / 512
