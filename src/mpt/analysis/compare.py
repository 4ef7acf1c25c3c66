"""When two accuracies differ: by more than their seeds scatter and by more than so few test images can tell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mpt.analysis.aggregate import points, select

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Point:
    """An accuracy in [0, 1] over ``n`` seeds, each measured on ``images`` test images (inf if that is not known)."""

    mean: float
    lowest: float
    highest: float
    n: int
    images: float = math.inf

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} %"


def beats(a: Point, b: Point) -> bool:
    """Every seed of ``a`` above every seed of ``b``, the means more than two standard errors apart.

    The standard error is that of a difference of two accuracies, ``sqrt(p (1 - p) / N + q (1 - q) / M)`` on N and M
    images: with one seed there is no spread, and 359 test images still cannot tell 97 % from 98 %.
    """
    error = math.sqrt(a.mean * (1 - a.mean) / a.images + b.mean * (1 - b.mean) / b.images)
    return a.lowest > b.highest and a.mean - b.mean > 2 * error


def half_spread(point: Point) -> float:
    """Half the distance from lowest to highest seed."""
    return (point.highest - point.lowest) / 2


def at(
    table: pd.DataFrame, by: Sequence[str], *, y: str = "test_acc", **equal: str | Sequence[str]
) -> dict[tuple[Any, ...], Point]:
    """Key (values of ``by``) -> point, of the rows in which each column of ``equal`` has that value; {} if none has."""
    for name, value in equal.items():
        wanted = [value] if isinstance(value, str) else list(value)
        if name not in table or not table[name].astype(str).isin(wanted).any():
            return {}
        table = select(table, {name: wanted})
    by = [name for name in by if name in table]
    images = float(table["num_test"].min()) if "num_test" in table else math.inf
    found = points(table, by=by, y=y).to_dict("records")
    return {
        tuple(row[name] for name in by): Point(row["mean"], row["lowest"], row["highest"], row["n"], images)
        for row in found
    }


def nested(found: Mapping[tuple[Any, ...], Point]) -> dict[tuple[Any, ...], dict[Any, Point]]:
    """The last part of each key taken off: key -> its values in rising order -> point."""
    made: dict[tuple[Any, ...], dict[Any, Point]] = {}
    for key, point in sorted(found.items(), key=lambda item: (str(item[0][:-1]), item[0][-1])):
        made.setdefault(key[:-1], {})[key[-1]] = point
    return made


@dataclass(frozen=True)
class Duel:
    """Pairs of points that differ in one thing."""

    pairs: dict[tuple[Any, ...], tuple[Point, Point]]

    @property
    def won(self) -> int:
        return sum(beats(a, b) for a, b in self.pairs.values())

    @property
    def lost(self) -> int:
        return sum(beats(b, a) for a, b in self.pairs.values())

    @property
    def gain(self) -> float:
        """Mean of the differences."""
        return sum(a.mean - b.mean for a, b in self.pairs.values()) / len(self.pairs)

    def __str__(self) -> str:
        return (
            f"ahead in {self.won} and behind in {self.lost} of {len(self.pairs)} pairs beyond the spread, "
            f"{100 * self.gain:+.1f} points on average"
        )


def duel(a: Mapping[tuple[Any, ...], Point], b: Mapping[tuple[Any, ...], Point]) -> Duel:
    """The points of ``a`` and ``b`` that have the same key."""
    return Duel({key: (a[key], b[key]) for key in a if key in b})


def all_points(*found: Mapping[Any, Point]) -> list[Point]:
    return [point for mapping in found for point in mapping.values()]


def percents(values: Iterable[float]) -> str:
    """Fractions pruned as people read them: ``20, 50, 80 %``."""
    return f"{', '.join(f'{100 * value:g}' for value in values)} %"
