from __future__ import annotations

import pytest

from mpt.analysis.verdicts import judge
from tests.analysis.conftest import curve, result


def power(a, accs):
    return curve(accs, method__power=float(a))


def result_with_report(**changed):
    zero, chance, span = changed.pop("zero", 0.3), changed.pop("chance", 0.2), changed.pop("span", 1.0)
    kernels = changed.pop("kernels", 10_000)
    report = {"all_kernels": {"zero": zero, "zero_chance": chance, "kernels": kernels}, "score_range": span}
    return result(report=report, **changed)


def finetuned(layers, before, best, end):
    rows = curve({0.8: end}, method=f"finetune_{layers}", layers=layers)
    middle = len(rows) // 2
    return [row | {"test_acc_before": before, "test_acc_max": best + 0.01 * (row["seed"] - middle)} for row in rows]


def selection(name, acc, seconds):
    return curve({0.5: acc}, method__selection=name, method__power=1.0, seconds=seconds)


SHOWN = {
    "E1": [*power(1, {0.2: 0.5, 0.8: 0.6}), *power(3, {0.2: 0.7, 0.8: 0.6})],
    "E2": [result_with_report(method__power=1.0, span=2.0), result_with_report(method__power=3.0, span=0.5)],
    "E3": [*finetuned("last", 0.7, 0.8, 0.75), *finetuned("first", 0.7, 0.72, 0.72)],
    "E4": [*selection("global", 0.7, 20.0), *selection("calibrated", 0.7, 15.0)],
    "E5": [result_with_report(seed=0, zero=0.3), result_with_report(seed=1, zero=0.31)],
}
NOT_SHOWN = {
    "E1": [*power(1, {0.2: 0.5, 0.8: 0.6}), *power(3, {0.2: 0.5, 0.8: 0.9})],
    "E2": [result_with_report(method__power=1.0, span=0.5), result_with_report(method__power=3.0, span=0.5)],
    "E3": [*finetuned("last", 0.7, 0.8, 0.8), *finetuned("first", 0.7, 0.9, 0.72)],
    "E4": [*selection("global", 0.7, 20.0), *selection("calibrated", 0.6, 15.0)],
    "E5": [result_with_report(seed=0, zero=0.19), result_with_report(seed=1, zero=0.31)],
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_claim_is_shown_by_a_table_that_meets_it_and_not_by_one_that_does_not(table, name):
    (shown,), (not_shown,) = judge(table(*SHOWN[name]), [name]), judge(table(*NOT_SHOWN[name]), [name])
    assert shown.word == "shown", shown
    assert not_shown.word == "not shown", not_shown
    assert shown.n


@pytest.mark.parametrize("name", SHOWN)
def test_a_claim_without_runs_about_it_is_not_testable(table, name):
    (verdict,) = judge(table(*curve({0.5: 0.6})), [name])
    assert (verdict.shown, verdict.n) == (None, None)
    assert "needs" in verdict.numbers


def test_seconds_are_not_compared_between_machines_or_numbers_of_processes(table):
    for one, other in (({"hardware": "old"}, {"hardware": "new"}), ({"processes": 1}, {"processes": 2})):
        slow = [row | one for row in selection("global", 0.7, 60.0)]
        fast = [row | other for row in selection("calibrated", 0.7, 1.0)]
        (verdict,) = judge(table(*slow, *fast), ["E4"])
        assert verdict.shown is None
        assert "on the same hardware" in verdict.numbers


def test_a_few_kernels_beyond_chance_are_chance(table):
    assert judge(table(result_with_report(zero=0.21, chance=0.2, kernels=100)), ["E5"])[0].word == "not shown"
    assert judge(table(result_with_report(zero=0.21, chance=0.2, kernels=100_000)), ["E5"])[0].word == "shown"
