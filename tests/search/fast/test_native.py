from __future__ import annotations

import numpy as np
import pytest
import torch

from mpt.search.fast import loops, native
from mpt.search.fast.choice_loop import spread


@pytest.mark.parametrize("threads", [1, 2])
def test_every_task_is_done_once_and_the_table_comes_back(threads, monkeypatch):
    monkeypatch.setattr(loops, "threads", lambda: threads)
    signs, out = np.array([1 | 4 << 16] * 200, np.uint32), np.full(3200, 9, np.uint32)
    table = native.call(spread, 50, 64, signs.ctypes.data, out.ctypes.data, 3200, 5, 7, True)
    assert np.array_equal(out, np.array([5, 0, 7, *[0] * 13] * 200))
    assert 50 < table[0] <= 50 + threads  # each thread asked once more
    assert list(table)[1:3] == [50, 64]


@pytest.mark.parametrize("x", [0.0, -0.0, 1.5, -np.inf, np.float32(0.1)])
def test_bits_are_those_of_a_float32(x):
    assert np.array(native.bits(x), np.int64).astype(np.uint32).view(np.float32) == np.float32(x)
    assert (native.bits(x) < 0) == bool(np.signbit(x))


def test_bits_of_a_bfloat16_are_rounded_as_torch_rounds_them():
    near = torch.arange(0x3F7E_0000, 0x3F82_0000, 0x1000, dtype=torch.int32)  # around 1, halves among them
    some = torch.cat([near, near - 1, near + 1]).view(torch.float32)
    wide = torch.cat([some, -some, torch.tensor([0.0, 1e-40, 3.3e38]), torch.randn(100, generator=torch.Generator())])
    expected = wide.to(torch.bfloat16).view(torch.int16).tolist()
    assert [native.bfloat16_bits(x) for x in wide.tolist()] == expected
