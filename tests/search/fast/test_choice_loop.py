from __future__ import annotations

import numpy as np
import pytest

from mpt.search.fast import native
from mpt.search.fast.choice_loop import keep, spread
from mpt.search.fast.loops import CHUNK


@pytest.mark.parametrize("rest", [0, 128, 1024, 4096])
def test_kept_signs_are_counted_and_magnitudes_summed_as_numpy_does(rest):
    n = 3 * CHUNK + rest
    scores, weight = np.random.default_rng(1).normal(size=(2, n)).astype(np.float32)
    signs, sums = np.empty(n, np.int8), np.empty(-(-n // CHUNK))
    addresses = scores.ctypes.data, weight.ctypes.data, signs.ctypes.data
    numbers = n, native.bits(0.5), True, sums.ctypes.data, 0, 0
    *_, ones, less = native.call(keep, 2, 2 * CHUNK, *addresses, *numbers)
    mask = np.abs(scores) >= 0.5
    assert (ones, less) == (mask.sum(), n - mask.sum())
    assert np.array_equal(signs, mask * np.where(weight >= 0, 1, -1))
    kept = np.abs(weight) * mask
    assert sums.tolist() == [
        np.add.reduce(kept[first : first + CHUNK], dtype=np.float64) for first in range(0, n, CHUNK)
    ]


@pytest.mark.parametrize(("dtype", "wide"), [(np.uint32, True), (np.uint16, False)])
def test_patterns_of_both_widths_are_written_by_the_sign(dtype, wide):
    signs, out = np.array([0, 1, -1, 1], np.int8), np.empty(4, dtype)
    native.call(spread, 1, 4, signs.ctypes.data, out.ctypes.data, 4, -1, 3, wide)
    assert out.tolist() == [0, np.iinfo(dtype).max, 3, np.iinfo(dtype).max]
