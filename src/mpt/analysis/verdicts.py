"""Judge each claim on a table: shown, not shown, or not testable with these runs, each with its numbers and n.

:mod:`mpt.analysis.claims` states the rules in words; the modules ``rules_*`` compute them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpt.analysis import rules_2021, rules_efficient, rules_methods
from mpt.analysis.aggregate import require
from mpt.analysis.claims import BEATS, CLAIMS
from mpt.schema import MAX_TEXT, printable

if TYPE_CHECKING:
    import pandas as pd

RULES = rules_2021.RULES | rules_efficient.RULES | rules_methods.RULES


@dataclass(frozen=True)
class Verdict:
    """Verdict on one claim: ``shown`` is None if untestable; ``n`` is the smallest and largest n of its points."""

    claim: str
    shown: bool | None
    numbers: str
    n: tuple[int, int] | None

    @property
    def word(self) -> str:
        return {True: "shown", False: "not shown", None: "not testable with these runs"}[self.shown]


def judge(table: pd.DataFrame, names: Sequence[str] = tuple(CLAIMS)) -> list[Verdict]:
    """Judge each claim in ``names``."""
    require(table, ["variant"])
    table = table[table["variant"].notna()]
    plain = rules_2021.layerwise_runs(table)
    return [_verdict(name, plain if name in rules_2021.RULES else table) for name in names]


def report(verdicts: Sequence[Verdict], *, rules: bool = False) -> str:
    """Render verdicts as text, one paragraph each."""
    lines = []
    for verdict in verdicts:
        claim = CLAIMS[verdict.claim]
        seeds = (
            ""
            if verdict.n is None
            else f" (n = {verdict.n[0]}" + (")" if verdict.n[0] == verdict.n[1] else f" to {verdict.n[1]})")
        )
        lines.append(f"{verdict.claim}  {verdict.word}{seeds}: {claim.text}")
        lines += [_indent(part) for part in verdict.numbers.split("\n")]
        lines += [_indent(f"rule: {claim.rule}")] if rules else []
    return "\n".join([*lines, *(["", textwrap.fill(BEATS, 118)] if rules else [])])


def _indent(text: str) -> str:
    return textwrap.fill(printable(text, MAX_TEXT), 118, initial_indent="    ", subsequent_indent="    ")


def _verdict(name: str, table: pd.DataFrame) -> Verdict:
    try:
        shown, numbers, points = RULES[name](table)
    except ValueError as mixture:  # the runs differ in a setting that the rule ignores, which the sentence names
        shown, numbers, points = None, str(mixture), []
    n = (min(p.n for p in points), max(p.n for p in points)) if points else None
    return Verdict(name, shown, numbers, n)
