"""Numbers in sentences. Imports nothing."""

from __future__ import annotations


def count(number: int, noun: str) -> str:
    """``1 channel``, ``2 channels``, ``1,000 classes``."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun}{'es' if noun.endswith(('s', 'sh', 'ch', 'x')) else 's'}"


def size(number: float) -> str:
    """A number of bytes: ``640 kB``, ``16.6 MB``, ``2.1 TB``."""
    for unit, length in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= length:
            return f"{number / length:,.1f} {unit}"
    return f"{number / 1e3:.0f} kB"
