from __future__ import annotations

import pytest

from mpt.words import count, size


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [
        (1, "channel", "1 channel"),
        (3, "channel", "3 channels"),
        (2, "class", "2 classes"),
        (1000, "process", "1,000 processes"),
    ],
)
def test_a_noun_agrees_with_its_number(number, noun, words):
    assert count(number, noun) == words


@pytest.mark.parametrize(
    ("number", "words"), [(640e3, "640 kB"), (16.6e6, "16.6 MB"), (2.1e12, "2.1 TB"), (5e18, "5,000.0 PB")]
)
def test_a_size_has_its_unit(number, words):
    assert size(number) == words
