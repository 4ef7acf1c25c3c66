from __future__ import annotations

import numpy as np
from numba import njit

from mpt.search.fast.addresses import add_at, as_float, divide, doubles_at, fma, root, sum_in_eights


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


def test_quotients_and_roots_have_the_bits_of_numpys():
    x, y = np.abs(np.random.default_rng(0).normal(size=(2, 500))).astype(np.float32)
    both = njit(lambda x, y: divide(root(x), y))
    assert [both(*pair) for pair in zip(x, y, strict=True)] == (np.sqrt(x) / y).tolist()
    assert both(np.float32(1), np.float32(0)) == np.inf
