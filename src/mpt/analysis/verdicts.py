"""What a table shows of each claim: shown, not shown, or not testable with these runs; the numbers and n beside it.

The rules are said in :mod:`mpt.analysis.claims` and carried out in ``rules_2021`` and ``rules_efficient``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpt.analysis import rules_2021, rules_efficient
from mpt.analysis.aggregate import require
from mpt.analysis.claims import BEATS, CLAIMS

if TYPE_CHECKING:
    import pandas as pd

RULES = rules_2021.RULES | rules_efficient.RULES


@dataclass(frozen=True)
class Verdict:
    """One claim: ``shown`` is None where it is not testable; ``n`` are the seeds of a point, fewest and most."""

    claim: str
    shown: bool | None
    numbers: str
    n: tuple[int, int] | None

    @property
    def word(self) -> str:
        return {True: "shown", False: "not shown", None: "not testable with these runs"}[self.shown]


def judge(table: pd.DataFrame, names: Sequence[str] = tuple(CLAIMS)) -> list[Verdict]:
    """The verdict on each claim of ``names``."""
    require(table, ["variant"])
    table = table[table["variant"].notna()]
    plain = rules_2021.of_the_paper(table)
    return [_verdict(name, plain if name in rules_2021.RULES else table) for name in names]


def report(verdicts: Sequence[Verdict], *, rules: bool = False) -> str:
    """Verdicts as text, a paragraph each."""
    lines = []
    for verdict in verdicts:
        claim = CLAIMS[verdict.claim]
        seeds = (
            ""
            if verdict.n is None
            else f" (n = {verdict.n[0]}" + (")" if verdict.n[0] == verdict.n[1] else f" to {verdict.n[1]})")
        )
        lines.append(f"{verdict.claim}  {verdict.word}{seeds}: {claim.text}")
        lines += [_indented(part) for part in verdict.numbers.split("\n")]
        lines += [_indented(f"rule: {claim.rule}")] if rules else []
    return "\n".join([*lines, *(["", textwrap.fill(BEATS, 118)] if rules else [])])


def _indented(text: str) -> str:
    return textwrap.fill(text, 118, initial_indent="    ", subsequent_indent="    ")


def _verdict(name: str, table: pd.DataFrame) -> Verdict:
    try:
        shown, numbers, points = RULES[name](table)
    except ValueError as mixture:  # runs that differ in more than the rule knows: the sentence says in what
        shown, numbers, points = None, str(mixture), []
    n = (min(p.n for p in points), max(p.n for p in points)) if points else None
    return Verdict(name, shown, numbers, n)
