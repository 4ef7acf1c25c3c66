"""When two accuracies differ: by more than their seeds scatter and by more than so few test images can tell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from mpt.analysis.aggregate import points, select

if TYPE_CHECKING:
    import pandas as pd

CLASSES = {"cifar10": 10, "cifar100": 100, "digits": 10, "fashion_mnist": 10, "imagenet": 1000, "mnist": 10}


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

    @property
    def variance(self) -> float:
        """Of the accuracy on so many images, ``p (1 - p) / N``."""
        return self.mean * (1 - self.mean) / self.images


@dataclass(frozen=True)
class Gap:
    """A difference of two accuracies: half its spread over seeds, and its standard error on so many test images."""

    mean: float
    half: float
    error: float


def beats(a: Point, b: Point) -> bool:
    """Every seed of ``a`` above every seed of ``b``, the means more than two standard errors apart.

    The standard error is that of a difference of two accuracies, ``sqrt(p (1 - p) / N + q (1 - q) / M)`` on N and M
    images: with one seed there is no spread, and 359 test images still cannot tell 97 % from 98 %.
    """
    return a.lowest > b.highest and a.mean - b.mean > 2 * math.sqrt(a.variance + b.variance)


def half_spread(point: Point) -> float:
    """Half the distance from lowest to highest seed."""
    return (point.highest - point.lowest) / 2


def gap(a: Sequence[Point], b: Sequence[Point]) -> Gap:
    """Mean of a - b over pairs. All pairs are measured on the same images: more of them make the error no smaller."""
    pairs = list(zip(a, b, strict=True))
    return Gap(
        fmean(x.mean - y.mean for x, y in pairs),
        fmean(half_spread(x) + half_spread(y) for x, y in pairs),
        fmean(math.sqrt(x.variance + y.variance) for x, y in pairs),
    )


def margin(a: Gap, b: Gap) -> float:
    """By how much two gaps may differ by nothing but seeds and test images."""
    return max(a.half + b.half, 2 * math.hypot(a.error, b.error))


def shrinks(a: Gap, b: Gap) -> bool | None:
    """Whether ``b`` is smaller than ``a`` by more than their margin; None where the margin would hide all of ``a``."""
    if a.mean - b.mean > margin(a, b):
        return True
    return False if max(a.mean, b.mean - a.mean) > margin(a, b) else None


def every(found: Sequence[bool | None]) -> bool | None:
    """False if one is, else None if one cannot be told or there is none, else True."""
    return False if False in found else None if None in found or not found else True


def learned(dense: Point, data: str) -> bool:
    """Whether a dense network is above chance; nothing is matched by matching one that is not.

    True for data whose number of classes is not known.
    """
    chance = 1 / CLASSES[data] if data in CLASSES else 0.0
    return beats(dense, Point(chance, chance, chance, n=1))


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
