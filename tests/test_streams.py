from __future__ import annotations

import hashlib

import numpy as np
import pytest

from mpt.streams import philox, stream_generator, stream_key


def test_a_key_is_the_seed_and_the_blake2b_hash_of_the_name_and_never_changes():
    digest = hashlib.blake2b(b"data/epoch 3", digest_size=8).digest()
    assert stream_key(7, "data/epoch 3") == (7, int.from_bytes(digest, "little")) == (7, 1849780812483748079)


def test_the_words_of_a_stream_never_change():  # integers, the same on every machine
    assert philox(7, "data/epoch 3").random_raw(2).tolist() == [5366923338610554227, 11425750921666164465]


def test_a_generator_draws_from_the_words_of_its_stream():
    expected = np.random.Generator(philox(7, "x")).random(5)
    assert stream_generator(7, "x").random(5).tolist() == expected.tolist()


def test_streams_of_other_names_or_seeds_differ():
    draws = {tuple(stream_generator(seed, name).random(4)) for seed in (0, 1, 2**63 - 1) for name in ("x", "y", "x/0")}
    assert len(draws) == 9


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, True, "0"])
def test_a_seed_is_a_whole_number_of_63_bits(seed):
    with pytest.raises(ValueError, match=r"seed must be a whole number from 0 to 2\^63 - 1, got"):
        stream_key(seed, "x")
