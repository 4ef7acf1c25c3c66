"""A parameter, and the values that parameters accept, each with its words. Imports the standard library alone."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import field
from typing import Any, NamedTuple


class Range(NamedTuple):
    """The values that a parameter accepts: a check, and the words that follow "must be"."""

    accepts: Callable[[Any], bool]
    words: str


def dial(default: Any, meaning: str, valid: Range | None = None, *, of: str = "result", search: bool = False) -> Any:
    """A parameter.

    Args:
        default: "???" if there is none. If it is None, None is valid. A list or a group is given as its class.
        meaning: in a few words; ``--help`` prints it.
        valid: the values that it accepts.
        of: see :mod:`mpt.run.settings`.
        search: whether fine-tuning keeps the value that the ticket was searched with.
    """
    about = {"meaning": meaning, "valid": valid, "of": of, "search": search}
    if callable(default):
        return field(default_factory=default, metadata=about)
    return field(default=default, metadata=about)


def at_least(least: int) -> Range:
    """Finite numbers that are at least ``least``."""
    return Range(lambda v: least <= v < math.inf, f"at least {least}" if least else "0 or more")


def above(bound: int) -> Range:
    """Finite numbers above ``bound``."""
    return Range(lambda v: bound < v < math.inf, f"above {bound}")


def between(least: float, most: float) -> Range:
    """Numbers from ``least`` to ``most``."""
    return Range(lambda v: least <= v <= most, f"from {least:g} to {most:g}")


def fraction() -> Range:
    """Numbers in [0, 1)."""
    return Range(lambda v: 0 <= v < 1, "in [0, 1)")


def share() -> Range:
    """Numbers between 0 and 1, without both."""
    return Range(lambda v: 0 < v < 1, "above 0 and below 1")


def one_of(*words: str) -> Range:
    """One of a few words."""
    return Range(lambda v: v in words, f"{', '.join(words[:-1])} or {words[-1]}")


PRUNE = Range(fraction().accepts, "the fraction removed and must be in [0, 1)")
MEANS = Range(lambda v: all(0 <= x <= 1 for x in v), "numbers from 0 to 1, one a channel")
SPREADS = Range(lambda v: all(1e-6 <= x < math.inf for x in v), "numbers of at least 1e-06, one a channel")
PROBABILITY = Range(lambda v: 0 <= v <= 1, "a probability in [0, 1]")
SEED = Range(lambda v: 0 <= v < 2**63, "from 0 to 2^63 - 1")
STRATEGIES = Range(  # Lightning's others share other work, or send the run to its processes as a pickle
    lambda v: v in ("auto", "ddp") or v.startswith("ddp_find"),
    "auto, ddp or another of Lightning's names that begin with ddp_find",
)
REPORTS = Range(lambda v: v is True or v is False or v == "html", "true, false or html")


def is_devices(value: Any) -> bool:
    """Whether ``value`` names devices: ``auto``, -1 for all, a number from 1, or several ids as a list or as text."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(v, int) and v >= 0 for v in value)
    return (
        not isinstance(value, bool) and bool(re.fullmatch(r"auto|-1|[1-9]\d*|\d+(,\d+)*,?", str(value))) and value != 0
    )


DEVICES = Range(is_devices, "auto, a number of processes from 1, -1 for all devices, or a list of devices as [0,1]")
