from __future__ import annotations

import numpy as np
import pytest

from mpt.ticket.format import pack_bits, unpack_bits


@pytest.mark.parametrize("n", [1, 7, 8, 9, 1000])
def test_packed_bits_come_back_and_take_a_bit_each(n):
    bits = np.random.default_rng(n).random(n) < 0.5
    packed = pack_bits(bits)
    assert packed.nbytes == (n + 7) // 8
    assert np.array_equal(unpack_bits(packed, n=n), bits)
