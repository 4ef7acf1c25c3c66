from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from mpt.search.fast.addresses import add_at, as_float, compare, count_ones, divide, fma, keep_block, root


def test_numbers_are_added_in_place():
    x = np.array([5, 7])
    assert njit(lambda address: add_at(address, 3))(x.ctypes.data + 8) == 7
    assert x.tolist() == [5, 10]


def test_bits_become_a_float_and_products_are_rounded_once():
    assert njit(lambda x: as_float(x))(np.uint32(0x3FC00000)) == 1.5
    x = np.float32(1 + 2**-12)
    assert njit(lambda x: fma(x, x, np.float32(-1)))(x) == np.float32(2**-11 + 2**-24)


def bits(flags):
    """Flags as the bits of a number."""
    return sum(int(flag) << place for place, flag in enumerate(flags))


@pytest.mark.parametrize("absolute", [False, True])
def test_a_block_keeps_scores_from_the_threshold_on_and_sums_magnitudes_as_numpy_does(absolute):
    keep = njit(lambda *numbers: keep_block(*numbers[:3], np.uint32(numbers[3]), np.float32(numbers[4]), numbers[5]))
    for seed in range(20):
        scores, weight = np.random.default_rng(seed).normal(size=(2, 128)).astype(np.float32)
        scores[:5], weight[4:6] = [0.5, -0.5, 0.0, -0.0, np.nan], [0.0, -0.0]
        signs, counts = np.full(9, 7, np.uint32), np.array([10, 20])
        addresses = scores.ctypes.data, weight.ctypes.data, signs.ctypes.data
        total = keep(*addresses, 0x7FFFFFFF if absolute else 0xFFFFFFFF, 0.5, counts.ctypes.data)
        kept = (np.abs(scores) if absolute else scores) >= 0.5
        assert counts.tolist() == [10 + kept.sum(), 21]
        assert total == np.add.reduce(np.abs(weight) * kept, dtype=np.float64)
        plus = (kept & (weight >= 0)).reshape(8, 16)
        minus = (kept & (weight < 0)).reshape(8, 16)
        assert signs.tolist() == [*(bits(p) | bits(m) << 16 for p, m in zip(plus, minus, strict=True)), 7]


@pytest.mark.parametrize("absolute", [False, True])
def test_sixteen_numbers_are_compared_with_two_bounds(absolute):
    x = np.linspace(-1, 1, 17, dtype=np.float32)[:16]
    x[7] = np.nan
    mask = np.uint32(0x7FFFFFFF if absolute else 0xFFFFFFFF)
    found = njit(lambda x: compare(x, mask, np.float32(0.25), np.float32(0.5)))(x.ctypes.data)
    value = np.abs(x) if absolute else x
    assert found == bits(value >= 0.5) | bits(value < 0.25) << 16
    assert njit(lambda x: count_ones(x))(found) == ((value >= 0.5) | (value < 0.25)).sum()


def test_quotients_and_roots_have_the_bits_of_numpys():
    x, y = np.abs(np.random.default_rng(0).normal(size=(2, 500))).astype(np.float32)
    both = njit(lambda x, y: divide(root(x), y))
    assert [both(*pair) for pair in zip(x, y, strict=True)] == (np.sqrt(x) / y).tolist()
    assert both(np.float32(1), np.float32(0)) == np.inf
