"""M1, our claim about the methods after biprop, as a function of a table; ``claims`` states the rule in words."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mpt.analysis.aggregate import level
from mpt.analysis.compare import Point, at, beats, nest
from mpt.analysis.rules_2021 import NET, Finding

if TYPE_CHECKING:
    import pandas as pd

BITS, PLAIN = "bits_per_weight", "MPT-1/32"


def interpolate(line: Mapping[float, Point], bits: float) -> Point | None:
    """The point at ``bits`` on the straight lines between those of ``line`` (bits -> point); None outside of them."""
    known = sorted(line)
    if bits in line:
        return line[bits]
    place = bisect_right(known, bits)
    if place in (0, len(known)):
        return None
    low, high = known[place - 1], known[place]
    a, b, share = line[low], line[high], (bits - low) / (high - low)
    mean, lowest, highest = (
        (1 - share) * x + share * y for x, y in ((a.mean, b.mean), (a.lowest, b.lowest), (a.highest, b.highest))
    )
    return Point(mean, lowest, highest, min(a.n, b.n), min(a.images, b.images))


def _beats_at_equal_bits(table: pd.DataFrame) -> Finding:
    needs = "needs MPT-1/32 at two or more P of one network, and another search there, with bits_per_weight"
    if BITS not in table or "method" not in table:
        return None, needs, []
    searches = ~table["method"].isin(["dense", "random_mask"]) & ~table["method"].str.startswith("finetune_")
    table = level(table[table[BITS].notna() & searches], BITS)
    lines = nest(at(table, (*NET, "variant", BITS)))
    parts, points, shown = [], list[Point](), []
    for (*net, variant), line in lines.items():
        plain = lines.get((*net, PLAIN), {})
        if variant == PLAIN or len(plain) < 2:
            continue
        pairs = {bits: (point, other) for bits, point in line.items() if (other := interpolate(plain, bits))}
        if not pairs:
            parts.append(f"{net[0]}, {variant}: no point within the bits of {PLAIN}")
            continue
        won = sum(beats(a, b) for a, b in pairs.values())
        lost = sum(beats(b, a) for a, b in pairs.values())
        shown.append(won > len(pairs) / 2 and not lost)
        gain = sum(a.mean - b.mean for a, b in pairs.values()) / len(pairs)
        parts.append(
            f"{net[0]}, {variant}: {'shown' if shown[-1] else 'not shown'}, {won} won and {lost} lost of {len(pairs)} "
            f"points, {100 * gain:+.1f} on average: {'; '.join(_pair(bits, *pair) for bits, pair in pairs.items())}"
        )
        points += [point for pair in pairs.values() for point in pair]
    return (any(shown) if shown else None), "\n".join(parts) or needs, points


def _pair(bits: float, a: Point, b: Point) -> str:
    return f"at {bits:.3f} bits {_spell(a)} against {_spell(b)}"


def _spell(point: Point) -> str:
    return f"{point} ({100 * point.lowest:.1f} to {100 * point.highest:.1f}, n = {point.n})"


RULES: dict[str, Callable[[Any], Finding]] = {"M1": _beats_at_equal_bits}
