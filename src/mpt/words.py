"""Numbers and names in sentences. Imports nothing."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """``1 channel``, ``2 channels``, ``1,000 classes``, ``20 epochs``."""
    if number == 1:
        return f"1 {noun}"
    hisses = noun.endswith(("s", "sh", "ch", "x")) and not noun.endswith("epoch")  # whose ch is a k
    return f"{number:,} {noun}{'es' if hisses else 's'}"


def size(number: float) -> str:
    """A number of bytes: ``640 kB``, ``16.6 MB``, ``2.1 TB``."""
    for unit, length in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= length:
            return f"{number / length:,.1f} {unit}"
    return f"{number / 1e3:.0f} kB"


def duration(seconds: float) -> str:
    """``1 second`` to ``119 seconds``, then ``2 minutes``, ``2 hours``, ``2 days``."""
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return count(max(1, round(seconds)), "second")


def first_names(names: list[str], most: int = 8) -> str:
    """The first ``most`` names as text, followed by the number of names left out."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
