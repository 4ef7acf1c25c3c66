from __future__ import annotations

import pytest

from mpt.analysis.compare import Point, above_chance, at, beats, duel, every, gap, shrinks
from tests.analysis.conftest import curve


def test_one_accuracy_beats_another_only_if_their_seeds_do_not_overlap():
    assert beats(Point(0.8, 0.79, 0.81, 3), Point(0.7, 0.69, 0.71, 3))
    assert not beats(Point(0.8, 0.70, 0.9, 3), Point(0.7, 0.69, 0.71, 3))
    assert not beats(Point(0.7, 0.7, 0.7, 1), Point(0.7, 0.7, 0.7, 1))


def test_few_test_images_cannot_separate_close_accuracies():
    close = [(0.98, 0.97), (0.80, 0.785)]
    for a, b in close:
        assert beats(Point(a, a, a, 1, 10_000), Point(b, b, b, 1, 10_000))
        assert not beats(Point(a, a, a, 1, 359), Point(b, b, b, 1, 359))


def test_points_carry_the_number_of_test_images(table):
    by_key = at(table(*curve({0.5: 0.6}, num_test=359)), ("model", "prune"), variant="MPT-1/32")
    assert by_key[("conv2", 0.5)].images == 359
    assert at(table(*curve({0.5: 0.6})), ("model",), variant="MPT-1/1") == {}


def test_a_duel_counts_the_pairs_that_one_side_wins():
    a = {1: Point(0.8, 0.8, 0.8, 1), 2: Point(0.5, 0.4, 0.6, 3), 3: Point(0.1, 0.1, 0.1, 1), 4: Point(1, 1, 1, 1)}
    b = {1: Point(0.7, 0.7, 0.7, 1), 2: Point(0.5, 0.4, 0.6, 3), 3: Point(0.4, 0.4, 0.4, 1)}
    outcome = duel(a, b)
    assert (outcome.won, outcome.lost, len(outcome.pairs)) == (1, 1, 3)
    assert outcome.gain == pytest.approx(-0.2 / 3)


def test_a_gap_shrinks_only_by_more_than_its_seeds_and_images_explain():
    def gaps(*, wide, images=10_000, spread=0.0):
        low, high = (Point(acc, acc - spread, acc + spread, 3, images) for acc in (0.6, 0.8))
        return gap([high], [low]), gap([Point(0.6 + wide, 0.6 + wide - spread, 0.6 + wide + spread, 3, images)], [low])

    before, after = gaps(wide=0.1, spread=0.01)
    assert (before.mean, before.half) == (pytest.approx(0.2), pytest.approx(0.02))
    assert before.error == pytest.approx(((0.8 * 0.2 + 0.6 * 0.4) / 10_000) ** 0.5)
    assert shrinks(before, after) is True
    assert shrinks(*gaps(wide=0.19)) is False  # the images are enough, and show no change
    assert shrinks(*gaps(wide=0.1, spread=0.03)) is False
    assert shrinks(*gaps(wide=0.1, spread=0.06)) is None  # seeds that hide the whole of .2
    assert shrinks(*gaps(wide=0.1, images=50)) is None


def test_several_verdicts_hold_together_if_none_fails_and_none_is_open():
    assert [every(v) for v in ([True, True], [True, None], [None, False], [])] == [True, None, False, None]


def test_above_chance_depends_on_the_number_of_classes():
    at_chance = Point(0.1, 0.1, 0.1, 1, 359)
    assert not above_chance(at_chance, "digits")
    assert above_chance(at_chance, "cifar100")
    assert above_chance(at_chance, "image_folder")  # the number of classes is unknown
