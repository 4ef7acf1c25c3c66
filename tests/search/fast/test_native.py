from __future__ import annotations

import numpy as np
import pytest

from mpt.search.fast import loops, native
from mpt.search.fast.choice_loop import spread


@pytest.mark.parametrize("threads", [1, 2])
def test_every_task_is_done_once_and_the_table_comes_back(threads, monkeypatch):
    monkeypatch.setattr(loops, "threads", lambda: threads)
    signs, out = np.array([1, 0, -1] * 1000, np.int8), np.full(3000, 9, np.uint32)
    table = native.call(spread, 43, 70, signs.ctypes.data, out.ctypes.data, 3000, 5, 7, True)
    assert np.array_equal(out, np.array([5, 0, 7] * 1000))
    assert 43 < table[0] <= 43 + threads  # each thread asked once more
    assert list(table)[1:3] == [43, 70]


@pytest.mark.parametrize("x", [0.0, -0.0, 1.5, -np.inf, np.float32(0.1)])
def test_bits_are_those_of_a_float32(x):
    assert np.array(native.bits(x), np.int64).astype(np.uint32).view(np.float32) == np.float32(x)
    assert (native.bits(x) < 0) == bool(np.signbit(x))
