from __future__ import annotations

import pytest

from mpt.analysis.compare import Point, at, beats, duel
from tests.analysis.conftest import curve


def test_one_accuracy_beats_another_only_beyond_the_spread_over_seeds():
    assert beats(Point(0.8, 0.79, 0.81, 3), Point(0.7, 0.69, 0.71, 3))
    assert not beats(Point(0.8, 0.70, 0.9, 3), Point(0.7, 0.69, 0.71, 3))
    assert not beats(Point(0.7, 0.7, 0.7, 1), Point(0.7, 0.7, 0.7, 1))


def test_few_test_images_cannot_tell_close_accuracies_apart():
    close = [(0.98, 0.97), (0.80, 0.785)]
    for a, b in close:
        assert beats(Point(a, a, a, 1, 10_000), Point(b, b, b, 1, 10_000))
        assert not beats(Point(a, a, a, 1, 359), Point(b, b, b, 1, 359))


def test_points_carry_the_number_of_test_images(table):
    found = at(table(*curve({0.5: 0.6}, num_test=359)), ("model", "prune"), variant="MPT-1/32")
    assert found[("conv2", 0.5)].images == 359
    assert at(table(*curve({0.5: 0.6})), ("model",), variant="MPT-1/1") == {}


def test_a_duel_counts_the_pairs_that_one_side_wins():
    a = {1: Point(0.8, 0.8, 0.8, 1), 2: Point(0.5, 0.4, 0.6, 3), 3: Point(0.1, 0.1, 0.1, 1), 4: Point(1, 1, 1, 1)}
    b = {1: Point(0.7, 0.7, 0.7, 1), 2: Point(0.5, 0.4, 0.6, 3), 3: Point(0.4, 0.4, 0.4, 1)}
    found = duel(a, b)
    assert (found.won, found.lost, len(found.pairs)) == (1, 1, 3)
    assert found.gain == pytest.approx(-0.2 / 3)
