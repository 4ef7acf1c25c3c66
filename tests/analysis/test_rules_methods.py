from __future__ import annotations

import pytest

from mpt.analysis.compare import Point
from mpt.analysis.rules_methods import interpolate
from mpt.analysis.verdicts import judge
from tests.analysis.conftest import result

BITS = {0.8: 0.7, 0.9: 0.5, 0.98: 0.1}


def line(accs, *, extra=0.0, scatter=0.004, **same):
    """Runs of three seeds: P -> mean accuracy, at biprop's bits and ``extra``, which differ a little by seed."""
    return [
        result(
            prune=p,
            seed=seed,
            test_acc=acc + scatter * (seed - 1),
            bits_per_weight=BITS[p] + extra + 1e-4 * (seed - 1) * bool(extra),
            **same,
        )
        for p, acc in accs.items()
        for seed in range(3)
    ]


PLAIN = line({0.8: 0.7, 0.9: 0.6, 0.98: 0.4})


def judged(table, *rows):
    (verdict,) = judge(table(*rows), ["M1"])
    return verdict


def test_a_method_that_wins_at_the_same_p_by_its_extra_bits_alone_is_not_shown(table):
    # biprop at .2 bits more lies .1 above .9, and .1 above .98: so much the signs cost
    signed = line({0.9: 0.68, 0.98: 0.48}, extra=0.2, method="signed")
    verdict = judged(table, *PLAIN, *signed)
    assert verdict.shown is False
    assert "signed 1/32: not shown, 0 won and 2 lost of 2 points, -2.0 on average" in verdict.numbers
    assert verdict.n == (3, 3)


def test_a_method_beyond_the_spread_at_equal_bits_is_shown_with_n_and_spread(table):
    gains = line({0.8: 0.75, 0.9: 0.65, 0.98: 0.45}, extra=0.02, method__gains="learned")
    verdict = judged(table, *PLAIN, *gains)
    assert verdict.shown is True
    text = " ".join(verdict.numbers.split())
    assert "MPT-1/32, learned gains: shown, 2 won and 0 lost of 2 points" in text  # .72 bits are beyond biprop's
    assert "at 0.520 bits 65.0 % (64.6 to 65.4, n = 3) against 61.0 % (60.6 to 61.4, n = 3)" in text


def test_overlapping_seeds_show_nothing(table):
    verdict = judged(table, *PLAIN, *line({0.9: 0.62, 0.98: 0.42}, extra=0.02, method="iterand", scatter=0.02))
    assert verdict.shown is False
    assert "0 won and 0 lost" in verdict.numbers


def test_runs_without_biprop_or_without_bits_are_untestable(table):
    assert judged(table, *line({0.9: 0.6}, method="iterand")).shown is None
    assert judged(table, result()).shown is None


def test_a_curve_is_read_between_its_points_and_not_beyond():
    curve = {0.1: Point(0.4, 0.3, 0.5, 3, 100), 0.5: Point(0.6, 0.5, 0.7, 2, 50)}
    assert interpolate(curve, 0.1) == curve[0.1]
    middle = interpolate(curve, 0.2)
    assert (middle.mean, middle.lowest, middle.highest) == pytest.approx((0.45, 0.35, 0.55))
    assert (middle.n, middle.images) == (2, 50)
    assert interpolate(curve, 0.51) is None
    assert interpolate(curve, 0.09) is None
