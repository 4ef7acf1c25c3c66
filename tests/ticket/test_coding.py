from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpt.ticket import coding
from mpt.ticket.coding import decode_mask, encode_mask, entropy, least_coded_bytes, pack_bits, select_bits, unpack_bits


def mask_of(n, kept, seed=0):
    return np.random.default_rng(seed).permutation(np.arange(n) < kept)


def entropy_per_weight(p):
    return -p * np.log2(p) - (1 - p) * np.log2(1 - p)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 1000])
def test_packed_bits_come_back_and_take_a_bit_each(n):
    bits = np.random.default_rng(n).random(n) < 0.5
    packed = pack_bits(bits)
    assert packed.nbytes == (n + 7) // 8
    assert np.array_equal(unpack_bits(packed, n=n), bits)


@pytest.mark.slow
@pytest.mark.parametrize("prune", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99])
def test_a_coded_mask_is_within_a_thousandth_of_a_bit_a_weight_of_its_entropy(prune):
    n = 1_500_000  # more than one piece
    mask = pack_bits(mask_of(n, round((1 - prune) * n)))
    coded = encode_mask(mask, n=n, kept=round((1 - prune) * n))
    assert 8 * coded.nbytes <= n * min(1, entropy_per_weight(prune) + 0.001) + 64
    assert 8 * coded.nbytes >= n * entropy_per_weight(prune) - 1
    assert entropy(n, round((1 - prune) * n)) == pytest.approx(n * entropy_per_weight(prune), rel=1e-6)
    assert np.array_equal(decode_mask(coded, n=n, kept=round((1 - prune) * n)), mask)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 5000), st.data())
def test_every_mask_comes_back_and_takes_no_more_than_its_packed_bits(n, data):
    kept = data.draw(st.integers(1, n))
    mask = pack_bits(mask_of(n, kept, seed=data.draw(st.integers(0, 99))))
    coded = encode_mask(mask, n=n, kept=kept)
    assert coded.nbytes <= mask.nbytes
    assert np.array_equal(decode_mask(coded, n=n, kept=kept), mask)


@pytest.mark.parametrize("kept", [1, 3, 99_999, 100_000])
def test_the_size_of_a_coded_mask_bounds_the_weights_that_it_stands_for(kept):
    mask = pack_bits(mask_of(100_000, kept))
    coded = encode_mask(mask, n=100_000, kept=kept)
    assert coded.nbytes == least_coded_bytes(100_000) == 100
    assert np.array_equal(decode_mask(coded, n=100_000, kept=kept), mask)
    with pytest.raises(ValueError, match="100 bytes cannot be the mask of 200000 weights"):
        decode_mask(coded, n=200_000, kept=kept)


def test_one_mask_has_one_coded_form_and_every_other_is_refused():
    n, kept = 5000, 500
    coded = encode_mask(pack_bits(mask_of(n, kept)), n=n, kept=kept)
    others = [
        coded[:-4],
        np.append(coded, np.zeros(4, np.uint8)),
        coded[:-1],
        np.zeros_like(coded),
        ~np.zeros_like(coded),
    ]
    for place in range(0, len(coded), 7):
        altered = coded.copy()
        altered[place] ^= 1 << place % 8
        others.append(altered)
    for other in others:
        with pytest.raises(ValueError, match="mask"):
            decode_mask(other, n=n, kept=kept)
    with pytest.raises(ValueError, match="mask"):
        decode_mask(coded, n=n, kept=kept + 1)


def test_bits_are_selected_in_order_over_the_borders_of_pieces(monkeypatch):
    monkeypatch.setattr(coding, "CHUNK", 64)
    bits, mask = mask_of(1000, 500, seed=1), mask_of(1000, 300, seed=2)
    assert np.array_equal(select_bits(pack_bits(bits), pack_bits(mask), n=1000), pack_bits(bits[mask]))
    coded = encode_mask(pack_bits(mask), n=1000, kept=300)
    monkeypatch.undo()
    assert np.array_equal(coded, encode_mask(pack_bits(mask), n=1000, kept=300))


def test_without_the_coder_masks_stay_packed_and_coded_ones_are_refused_with_the_remedy(monkeypatch):
    n, kept = 10_000, 1_000
    mask = pack_bits(np.arange(n) % 10 == 0)
    coded = coding.encode_mask(mask, n=n, kept=kept)
    assert coded.size < mask.size
    monkeypatch.setattr(coding, "_coder", lambda: None)
    assert coding.encode_mask(mask, n=n, kept=kept) is mask
    assert coding.decode_mask(mask, n=n, kept=kept) is mask
    with pytest.raises(ValueError, match="pip install constriction"):
        coding.decode_mask(coded, n=n, kept=kept)
