from __future__ import annotations

import numpy as np
import pytest

from mpt.search.fast import native
from mpt.search.fast.choice import empty_signs, unpack
from mpt.search.fast.choice_loop import keep, spread
from mpt.search.fast.loops import CHUNK, LANES


@pytest.mark.parametrize("rest", [0, 128, 1024, 4096])  # of which the loop makes a sum
def test_kept_signs_are_counted_and_magnitudes_summed_as_numpy_does(rest):
    n = 3 * CHUNK + rest
    scores, weight = np.random.default_rng(1).normal(size=(2, n)).astype(np.float32)
    signs, sums = empty_signs(n), np.empty(-(-n // CHUNK))
    addresses = scores.ctypes.data, weight.ctypes.data, signs.ctypes.data
    numbers = n, native.bits(0.5), True, sums.ctypes.data, 0, 0
    *_, ones, strange = native.call(keep, 2, 2 * CHUNK, *addresses, *numbers)
    mask = np.abs(scores) >= 0.5
    assert (ones, strange) == (mask.sum(), 0)
    assert np.array_equal(unpack(signs, n), mask * np.where(weight >= 0, 1, -1))
    kept = np.abs(weight) * mask
    assert sums.tolist() == [
        np.add.reduce(kept[first : first + CHUNK], dtype=np.float64) for first in range(0, n, CHUNK)
    ]


@pytest.mark.parametrize("n", [1, 15, 16, 17, 127, 129, 1728, CHUNK + 777])
@pytest.mark.parametrize("absolute", [True, False])
def test_words_that_are_not_full_have_no_other_bits(n, absolute):
    scores, weight = np.random.default_rng(n).normal(size=(2, n)).astype(np.float32)
    scores[0], weight[-1] = -0.0, -0.0
    signs, sums = np.full_like(empty_signs(n), 0xFFFFFFFF), np.empty(-(-n // CHUNK))
    addresses = scores.ctypes.data, weight.ctypes.data, signs.ctypes.data
    numbers = n, native.bits(0.0), absolute, sums.ctypes.data, 0, 0
    *_, ones, strange = native.call(keep, 1, 2 * CHUNK, *addresses, *numbers)
    mask = (np.abs(scores) if absolute else scores) >= 0
    assert (ones, strange) == (mask.sum(), 0)
    expected = mask * np.where(weight >= 0, 1, -1)
    assert np.array_equal(unpack(signs, len(signs) * LANES), np.pad(expected, (0, len(signs) * LANES - n)))


@pytest.mark.parametrize(("dtype", "wide"), [(np.uint32, True), (np.uint16, False)])
@pytest.mark.parametrize("n", [4, 16, 40])
def test_patterns_of_both_widths_are_written_by_the_sign(dtype, wide, n):
    signs, out = np.array([0b1010 | 0b0100 << 16] * 3, np.uint32), np.full(n + 1, 9, dtype)
    native.call(spread, 1, 48, signs.ctypes.data, out.ctypes.data, n, -1, 3, wide)
    some = [0, np.iinfo(dtype).max, 3, np.iinfo(dtype).max, *[0] * 12]
    assert out.tolist() == [*(some * 3)[:n], 9]
