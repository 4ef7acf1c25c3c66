from __future__ import annotations

import pytest

from mpt.words import count, duration, first_names, size


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [
        (1, "channel", "1 channel"),
        (3, "channel", "3 channels"),
        (2, "class", "2 classes"),
        (20, "epoch", "20 epochs"),
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


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "1 second"),
        (59.6, "60 seconds"),
        (119, "119 seconds"),
        (121, "2 minutes"),
        (7300, "2 hours"),
        (2e5, "2 days"),
    ],
)
def test_a_duration_has_one_unit(seconds, words):
    assert duration(seconds) == words


def test_names_that_are_too_many_are_counted():
    names = [f"layer{i}" for i in range(10)]
    assert first_names(names[:2]) == "layer0, layer1"
    assert first_names(names, most=3) == "layer0, layer1, layer2 and 7 more"
    assert first_names(names).endswith("layer7 and 2 more")
