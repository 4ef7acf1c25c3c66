from __future__ import annotations

import numpy as np
from numba import njit

from mpt.search.fast.addresses import add_at, as_float, doubles_at, fma, sum_in_eights


def test_numbers_are_added_in_place():
    x = np.array([5, 7])
    assert njit(lambda address: add_at(address, 3))(x.ctypes.data + 8) == 7
    assert x.tolist() == [5, 10]


def test_bits_become_a_float_and_products_are_rounded_once():
    assert njit(lambda x: as_float(x))(np.uint32(0x3FC00000)) == 1.5
    x = np.float32(1 + 2**-12)
    assert njit(lambda x: fma(x, x, np.float32(-1)))(x) == np.float32(2**-11 + 2**-24)


def test_a_sum_in_eights_has_the_bits_of_numpys():
    x = np.random.default_rng(0).normal(size=(50, 128))
    add = njit(lambda address: sum_in_eights(doubles_at(address)))
    assert [add(row.ctypes.data) for row in x] == [np.add.reduce(row) for row in x]
