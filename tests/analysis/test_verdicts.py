from __future__ import annotations

from mpt.analysis.claims import CLAIMS
from mpt.analysis.verdicts import RULES, judge, report
from tests.analysis.conftest import curve, result


def test_every_claim_has_a_rule_and_every_rule_a_claim():
    assert list(CLAIMS) == [*(f"C{i}" for i in range(1, 10)), *(f"E{i}" for i in range(1, 6)), "M1"]
    assert set(RULES) == set(CLAIMS)


def test_runs_that_differ_in_a_setting_outside_the_rule_are_untestable_and_the_setting_is_named(table):
    rows = [*curve({0.2: 0.7, 0.5: 0.7, 0.9: 0.2}), *curve({0.0: 0.7}, method="dense")]
    (verdict,) = judge(table(*rows, result(prune=0.5, epochs=99, seed=7)), ["C1"])
    assert verdict.shown is None
    assert "differ in epochs" in verdict.numbers


def test_a_report_states_claim_verdict_numbers_and_n(table):
    rows = [*curve({0.2: 0.7, 0.5: 0.7, 0.9: 0.2}), *curve({0.0: 0.7}, method="dense", seeds=(0,))]
    text = report(judge(table(*rows), ["C1", "C5"]), rules=True)
    assert "C1  shown (n = 3)" in text
    assert CLAIMS["C1"].text in text
    assert "matches at P = 20, 50 %, drops to 20.0 % at P = 90 %" in " ".join(text.split())
    assert "C5  not testable with these runs" in text
    assert text.count("rule:") == 2
    assert "two standard errors" in text
