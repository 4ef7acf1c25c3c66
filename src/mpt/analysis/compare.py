"""Decide when two accuracies differ: by more than the spread over seeds and the noise of finitely many test images."""

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
    """An accuracy in [0, 1] over ``n`` seeds, each measured on ``images`` test images (inf if unknown)."""

    mean: float
    lowest: float
    highest: float
    n: int
    images: float = math.inf

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f} %"

    @property
    def variance(self) -> float:
        """Variance ``p (1 - p) / N`` of an accuracy p measured on N images."""
        return self.mean * (1 - self.mean) / self.images


@dataclass(frozen=True)
class Gap:
    """A difference of two accuracies, with half of its spread over seeds and its standard error over test images."""

    mean: float
    half: float
    error: float


def beats(a: Point, b: Point) -> bool:
    """Whether every seed of ``a`` is above every seed of ``b``, and the means are more than two standard errors apart.

    The standard error of a difference of two accuracies on N and M images is ``sqrt(p (1 - p) / N + q (1 - q) / M)``.
    It matters most with one seed, which has no spread: 359 test images cannot separate 97 % from 98 %.
    """
    return a.lowest > b.highest and a.mean - b.mean > 2 * math.sqrt(a.variance + b.variance)


def half_spread(point: Point) -> float:
    """Half the distance from the lowest to the highest seed."""
    return (point.highest - point.lowest) / 2


def gap(a: Sequence[Point], b: Sequence[Point]) -> Gap:
    """Mean of a - b over pairs. All pairs share their test images, so that more pairs do not reduce the error."""
    pairs = list(zip(a, b, strict=True))
    return Gap(
        fmean(x.mean - y.mean for x, y in pairs),
        fmean(half_spread(x) + half_spread(y) for x, y in pairs),
        fmean(math.sqrt(x.variance + y.variance) for x, y in pairs),
    )


def margin(a: Gap, b: Gap) -> float:
    """The largest difference of two gaps that seeds and test images alone explain."""
    return max(a.half + b.half, 2 * math.hypot(a.error, b.error))


def shrinks(a: Gap, b: Gap) -> bool | None:
    """Whether ``b`` is smaller than ``a`` by more than their margin; None if the margin would hide all of ``a``."""
    if a.mean - b.mean > margin(a, b):
        return True
    return False if max(a.mean, b.mean - a.mean) > margin(a, b) else None


def every(answers: Sequence[bool | None]) -> bool | None:
    """False if one answer is False, else None if one is None or there is none, else True."""
    return False if False in answers else None if None in answers or not answers else True


def above_chance(dense: Point, data: str) -> bool:
    """Whether a dense network is above chance: to match one at chance proves nothing.

    True for data with an unknown number of classes.
    """
    chance = 1 / CLASSES[data] if data in CLASSES else 0.0
    return beats(dense, Point(chance, chance, chance, n=1))


def at(
    table: pd.DataFrame, by: Sequence[str], *, y: str = "test_acc", **equal: str | Sequence[str]
) -> dict[tuple[Any, ...], Point]:
    """Key (values of ``by``) -> point, for rows whose columns have the values in ``equal``; {} if there are none."""
    for name, value in equal.items():
        values = [value] if isinstance(value, str) else list(value)
        if name not in table or not table[name].astype(str).isin(values).any():
            return {}
        table = select(table, {name: values})
    by = [name for name in by if name in table]
    images = float(table["num_test"].min()) if "num_test" in table else math.inf
    rows = points(table, by=by, y=y).to_dict("records")
    return {
        tuple(row[name] for name in by): Point(row["mean"], row["lowest"], row["highest"], row["n"], images)
        for row in rows
    }


def nest(flat: Mapping[tuple[Any, ...], Point]) -> dict[tuple[Any, ...], dict[Any, Point]]:
    """Split off the last part of each key: shorter key -> last parts in ascending order -> point."""
    nested: dict[tuple[Any, ...], dict[Any, Point]] = {}
    for key, point in sorted(flat.items(), key=lambda item: (str(item[0][:-1]), item[0][-1])):
        nested.setdefault(key[:-1], {})[key[-1]] = point
    return nested


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
        """Mean difference over the pairs."""
        return sum(a.mean - b.mean for a, b in self.pairs.values()) / len(self.pairs)

    def __str__(self) -> str:
        return (
            f"ahead in {self.won} and behind in {self.lost} of {len(self.pairs)} pairs beyond the spread, "
            f"{100 * self.gain:+.1f} points on average"
        )


def duel(a: Mapping[tuple[Any, ...], Point], b: Mapping[tuple[Any, ...], Point]) -> Duel:
    """Pair the points of ``a`` and ``b`` with equal keys."""
    return Duel({key: (a[key], b[key]) for key in a if key in b})


def all_points(*mappings: Mapping[Any, Point]) -> list[Point]:
    return [point for mapping in mappings for point in mapping.values()]


def format_percents(values: Iterable[float]) -> str:
    """Write fractions as percentages: ``20, 50, 80 %``."""
    return f"{', '.join(f'{100 * value:g}' for value in values)} %"
