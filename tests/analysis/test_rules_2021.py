"""For each claim: a table that shows it, one that does not, and one that cannot decide."""

from __future__ import annotations

import pytest

from mpt.analysis.verdicts import judge
from tests.analysis.conftest import curve

DROP = {0.2: 0.7, 0.5: 0.7, 0.8: 0.69, 0.9: 0.4}
FLAT = dict.fromkeys(DROP, 0.3)


def depths(lines, **same):
    return [row for depth, line in lines.items() for row in curve(line, model=f"conv{depth}", **same)]


def dense(acc, *models, **same):
    return [row for model in models for row in curve({0.0: acc}, model=model, method="dense", **same)]


def widths(lines, **same):
    return [row for width, line in lines.items() for row in curve(line, width=width, **same)]


def line(acc, scale=1.0):
    return {p: acc - scale * (p - 0.2) for p in (0.2, 0.5, 0.9)}


SHOWN = {
    "C1": [*curve(DROP), *dense(0.7, "conv2")],
    "C2": depths({2: {0.2: 0.7, 0.5: 0.6, 0.8: 0.3}, 4: {0.2: 0.7, 0.5: 0.7, 0.8: 0.4}}),
    "C3": [*depths({2: line(0.8), 4: line(0.9)}), *depths({2: line(0.7), 4: line(0.79)}, binary_activations=True)],
    "C4": depths({2: {0.5: 0.5}, 4: {0.5: 0.7}, 6: {0.5: 0.75}}),
    "C5": [*curve({0.8: 0.8}, model="conv8"), *dense(0.8, "conv8")],
    "C6": widths({0.5: line(0.6, 0.5), 2.0: line(0.8, 0.02)}),
    "C7": [
        *widths({0.5: line(0.7, 0.5), 2.0: line(0.8, 0.5)}),
        *widths({0.5: line(0.5, 0.5), 2.0: line(0.79, 0.5)}, binary_activations=True),
    ],
    "C8": [*curve(DROP), *curve(FLAT, method="edge_popup", method__init="signed_constant")],
    "C9": [*curve(FLAT, binary_activations=True), *curve(DROP, binary_activations=True, learn_batchnorm=True)],
}
OPEN = {  # no run contradicts the claim, but seeds, images or pruning rates are too few to decide
    "C1": [*curve(DROP), *dense(0.1, "conv2")],  # nothing was learned
    "C3": [  # 25 points apart, and seeds 30
        *depths({2: {0.5: 0.6}, 4: {0.5: 0.6}}, scatter=0.3),
        *depths({2: {0.5: 0.55}, 4: {0.5: 0.3}}, scatter=0.3, binary_activations=True),
    ],
    "C4": depths({2: {0.5: 0.80}, 4: {0.5: 0.8501}, 6: {0.5: 0.9}}, seeds=(0,), num_test=359),
    "C5": [*curve({0.8: 0.12}, model="conv8"), *dense(0.1, "conv8")],
    "C6": widths({0.5: {0.5: 0.5, 0.6: 0.3}, 2.0: {0.5: 0.8, 0.6: 0.79}}),  # without P = .9
    "C7": [
        *widths({0.5: {0.5: 0.9}, 2.0: {0.5: 0.9}}, seeds=(0,), num_test=359),
        *widths({0.5: {0.5: 0.85}, 2.0: {0.5: 0.8503}}, seeds=(0,), num_test=359, binary_activations=True),
    ],
}
NOT_SHOWN = {
    "C1": [*curve(FLAT), *dense(0.3, "conv2")],  # no drop
    "C2": depths({2: {0.2: 0.7, 0.5: 0.7, 0.8: 0.3}, 4: {0.2: 0.7, 0.5: 0.6, 0.8: 0.4}}),
    "C3": [*depths({2: line(0.8), 4: line(0.9)}), *depths({2: line(0.7), 4: line(0.6)}, binary_activations=True)],
    "C4": depths({2: {0.5: 0.5}, 4: {0.5: 0.55}, 6: {0.5: 0.8}}),  # grows on
    "C5": [*curve({0.8: 0.7}, model="conv8"), *dense(0.8, "conv8")],
    "C6": widths({0.5: line(0.6, 0.1), 2.0: line(0.8, 0.5)}),
    "C7": [
        *widths({0.5: line(0.7, 0.5), 2.0: line(0.9, 0.5)}),
        *widths({0.5: line(0.6, 0.5), 2.0: line(0.6, 0.5)}, binary_activations=True),
    ],
    "C8": [*curve(FLAT), *curve(FLAT, method="edge_popup", method__init="signed_constant")],
    "C9": [*curve(FLAT, binary_activations=True), *curve(FLAT, binary_activations=True, learn_batchnorm=True)],
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_claim_is_shown_by_a_table_that_meets_it_and_not_by_one_that_does_not(table, name):
    (shown,), (not_shown,) = judge(table(*SHOWN[name]), [name]), judge(table(*NOT_SHOWN[name]), [name])
    assert (shown.word, shown.n) == ("shown", (3, 3)), shown
    assert (not_shown.word, not_shown.n) == ("not shown", (3, 3)), not_shown


@pytest.mark.parametrize("name", SHOWN)
def test_a_claim_without_runs_about_it_is_not_testable(table, name):
    (verdict,) = judge(table(*curve({0.5: 0.6}, model="mlp")), [name])
    assert (verdict.shown, verdict.n) == (None, None)
    assert "needs" in verdict.numbers


@pytest.mark.parametrize("name", OPEN)
def test_a_difference_within_the_noise_makes_a_claim_untestable(table, name):
    (verdict,) = judge(table(*OPEN[name]), [name])
    assert verdict.word == "not testable with these runs", verdict


def test_a_gap_that_hardly_shrinks_is_not_shown_if_there_are_enough_images(table):
    rows = widths({0.5: {0.5: 0.9}, 2.0: {0.5: 0.9}}, seeds=(0,))
    rows += widths({0.5: {0.5: 0.85}, 2.0: {0.5: 0.8503}}, seeds=(0,), binary_activations=True)
    assert judge(table(*rows), ["C7"])[0].word == "not shown"


@pytest.mark.parametrize("name", ["C3", "C4"])
def test_depths_are_compared_at_shared_pruning_rates(table, name):
    unlike = {2: {0.9: 0.6}, 4: {0.5: 0.85}, 6: {0.5: 0.86}}
    rows = [*depths(unlike), *depths({2: {0.9: 0.3}, 4: {0.5: 0.55}}, binary_activations=True)]
    (verdict,) = judge(table(*rows), [name])
    assert verdict.shown is None
    assert "a P that they share" in verdict.numbers


def test_the_fifth_of_conv8_is_judged_at_the_published_width(table):
    rows = [*curve({0.8: 0.80}, model="conv8"), *dense(0.92, "conv8")]
    rows += [*curve({0.8: 0.93}, model="conv8", width=2.0), *dense(0.93, "conv8", width=2.0)]
    (verdict,) = judge(table(*rows), ["C5"])
    assert verdict.word == "not shown"
    assert "width 1" in verdict.numbers


def test_runs_for_the_other_paper_in_the_same_folder_do_not_change_a_verdict(table):
    settings = {"method__selection": "layerwise", "method__power": 1.0}
    rows = [*curve(DROP, **settings), *dense(0.7, "conv2")]
    more = [
        *curve(FLAT, **settings | {"method__selection": "global"}),
        *curve(FLAT, **settings | {"method__power": 3.0}),
    ]
    alone, together = (judge(table(*runs), ["C1"])[0] for runs in (rows, [*rows, *more]))
    assert alone.shown
    assert alone == together
    assert judge(table(*curve(DROP, method__selection="global"), *dense(0.7, "conv2")), ["C1"])[0].shown


def test_a_scatter_over_seeds_larger_than_the_effect_shows_nothing(table):
    rows = [*curve(DROP, scatter=0.2), *curve(FLAT, scatter=0.2, method="edge_popup")]
    (verdict,) = judge(table(*rows), ["C8"])
    assert verdict.word == "not shown"


def test_the_second_claim_is_untestable_without_a_drop_within_the_pruning_rates(table):
    (verdict,) = judge(table(*depths({2: FLAT, 4: FLAT})), ["C2"])
    assert verdict.shown is None
    assert "no network drops up to P = 90 %" in verdict.numbers
