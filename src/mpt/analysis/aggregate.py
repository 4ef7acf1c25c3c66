"""A table to points: mean, lowest and highest over seeds with n. Nothing is averaged that is not a seed."""

from __future__ import annotations

import difflib
import numbers
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mpt.analysis.table import BASE, SETTINGS, is_setting

if TYPE_CHECKING:
    import pandas as pd

_NOT_HELD = ("seed", "sweep", "ticket_digest")  # what the runs of one point may differ in, if their seeds differ too
_CHOICES = ("sweep", "ticket_digest", "run", "epoch", "layer")  # by which one of several rows of a seed can be chosen
STATISTICS = ("mean", "lowest", "highest", "n")


def require(table: pd.DataFrame, columns: Sequence[str]) -> None:
    """ValueError naming the columns that there are, if one of ``columns`` is not among them."""
    for name in columns:
        if name not in table:
            close = difflib.get_close_matches(name, [str(column) for column in table.columns], n=3)
            plain = [column for column in table.columns if "/" not in column and "." not in column]
            there = f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(plain)} and more"
            raise ValueError(f"the table has no column {name}: {there}")


def measured(table: pd.DataFrame, y: str) -> pd.DataFrame:
    """The rows with a number in column ``y``; ValueError if it is not there, is empty, or holds something else."""
    require(table, [y])
    found = table[table[y].notna()]
    if found.empty and not table.empty:
        raise ValueError(f"no run has a value of {y}: choose another column")
    if not all(isinstance(value, numbers.Real) for value in found[y]):
        raise ValueError(f"{y} is no column of numbers, and only these have a mean: choose one such as test_acc")
    return found


def select(table: pd.DataFrame, where: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """The rows in which every column of ``where`` has one of the values given (as text or as numbers).

    Raises:
        ValueError: there is no such column, or no row is left; it names the values that there are.
    """
    for name, values in where.items():
        require(table, [name])
        kept = table[table[name].map(_key).isin({_key(value) for value in values})]
        if kept.empty:
            there = ", ".join(spelled(value) for value in ordered(table[name].unique()))
            raise ValueError(f"no run has {name}={','.join(map(spelled, values))}: there are {there}")
        table = kept
    return table


def of_sweep(table: pd.DataFrame, name: str | None) -> pd.DataFrame:
    """The runs of the sweep ``name`` alone, where the table has any; else all."""
    if name is None or "sweep" not in table or not (table["sweep"] == name).any():
        return table
    return table[table["sweep"] == name]


def points(table: pd.DataFrame, *, by: Sequence[str], y: str) -> pd.DataFrame:
    """One row for each combination of the columns ``by``, with ``mean lowest highest n`` of ``y`` over seeds.

    A run that is found twice, all settings and ``y`` the same, counts once; rows without ``y`` do not count.

    Raises:
        ValueError: a column is missing, ``y`` has no numbers, the runs of one point differ in a setting other than
            their seed, or one seed has several ``y``.
    """
    require(table, by)
    table = measured(table, y)
    table = _distinct(table, by, y)
    _refuse_mixtures(table, by)
    _refuse_repeats(table, by, y)
    grouped = table.groupby(list(by), dropna=False, sort=False)[y].agg(["mean", "min", "max", "count"])
    made = grouped.set_axis(list(STATISTICS), axis=1).reset_index()
    return made.sort_values(list(by), key=_natural_column, kind="stable").reset_index(drop=True)


def summary(table: pd.DataFrame, *, y: str = "test_acc") -> pd.DataFrame:
    """Points of all settings; of the settings only those that tell the rows apart, and what every run is known by.

    A seed whose run was made again and came out otherwise has a row for each: by sweep, else by ticket, else by run.
    """
    settings = [name for name in table.columns if is_setting(name) and name not in _NOT_HELD]
    by = [*(name for name in BASE if name in table), *(name for name in settings if name not in BASE)]
    by += _telling_repeats_apart(measured(table, y), by, y)
    made = points(table, by=by, y=y)
    shown = [name for name in BASE if name in by]
    shown += [name for name in by if name not in (*shown, "method") and made[name].nunique(dropna=False) > 1]
    implied = [name for name in shown if name not in BASE and _follows(made, name, [*BASE])]
    return made[[name for name in shown if name not in implied] + list(STATISTICS)]


def ordered(values: Sequence[Any]) -> list[Any]:
    """Numbers by size, text as people count (conv2, conv4, conv10), what is missing last."""
    return sorted(values, key=_natural)


def spelled(value: Any) -> str:
    """A value of a column as it is written on a command line: ``0.5``, ``20``, ``true``, ``conv4``."""
    if _missing(value):
        return "none"
    if str(value) in ("True", "False"):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _refuse_mixtures(table: pd.DataFrame, by: Sequence[str]) -> None:
    others = [n for n in table.columns if is_setting(n) and n not in (*by, *_NOT_HELD) and not _labelled(n, by)]
    if not others or table.empty:
        return
    counts = table.groupby(list(by), dropna=False)[others].nunique(dropna=False).max()
    mixed = [name for name in others if counts[name] > 1]
    if mixed:
        mixed.sort(key=lambda name: SETTINGS.index(name) if name in SETTINGS else len(SETTINGS))
        values = ", ".join(spelled(value) for value in ordered(table[mixed[0]].unique())[:6])
        also = f" (and in {', '.join(mixed[1:5])})" if mixed[1:] else ""
        raise ValueError(
            f"the runs of one point also differ in {mixed[0]}: {values}{also}; choose with --where {mixed[0]}=..., "
            "or show it with --hue or --panel"
        )


def _distinct(table: pd.DataFrame, by: Sequence[str], y: str) -> pd.DataFrame:
    """A run that is found twice, all settings and ``y`` the same, once."""
    held = [name for name in table.columns if is_setting(name) and name != "sweep"]
    return table.drop_duplicates([*dict.fromkeys([*held, *by, y])]) if "seed" in table else table


def _telling_repeats_apart(table: pd.DataFrame, by: Sequence[str], y: str) -> list[str]:
    """The column, if one is needed, in which the rows of one seed differ."""
    table = _distinct(table, by, y)
    for names in ([], *([name] for name in _CHOICES if name in table)):
        if "seed" not in table or not table.duplicated([*by, *names, "seed"]).any():
            return names
    return []


def _refuse_repeats(table: pd.DataFrame, by: Sequence[str], y: str) -> None:
    """A seed counts once: a run made again that came out otherwise, or with another ticket, is no second seed."""
    point = [*dict.fromkeys([*by, "seed"])]
    again = table[table.duplicated(point, keep=False)] if "seed" in table else table[:0]
    if again.empty:
        return
    first = again[(again[point].map(_key) == again[point].iloc[0].map(_key)).all(axis=1)]
    choices = [name for name in _CHOICES if name in first and first[name].nunique(dropna=False) > 1]
    names = ", ".join(map(str, first["run"].unique()[:4])) if "run" in first else f"{len(first)} rows"
    how = " or ".join(f"--where {name}={spelled(first[name].iloc[0])}" for name in choices)
    raise ValueError(
        f"seed {spelled(first['seed'].iloc[0])} is there {len(first)} times with all settings the same and different "
        f"{y}, which is no spread over seeds: {names}; choose one{f', for instance with {how}' if how else ''}"
    )


def _labelled(name: str, by: Sequence[str]) -> bool:
    """True for a setting that ``variant`` says already."""
    return "variant" in by and name in ("method", "binary_activations", "learn_batchnorm")


def _follows(made: pd.DataFrame, name: str, base: Sequence[str]) -> bool:
    """True if ``name`` has one value for each combination of ``base``: it tells nothing apart."""
    base = [column for column in base if column in made]
    return bool(base) and bool((made.groupby(base, dropna=False)[name].nunique(dropna=False) == 1).all())


def _key(value: Any) -> str:
    """Equal for 0.5, "0.5" and "0.50", for True, "true" and "True"."""
    text = spelled(value)
    try:
        return f"{float(text):.12g}"
    except ValueError:
        return text.lower()


def _natural(value: Any) -> tuple[Any, ...]:
    if _missing(value):
        return (2,)
    if isinstance(value, str):
        return (1, tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", value)))
    return (0, float(value))


def _natural_column(column: pd.Series) -> pd.Series:
    rank = {_key(value): place for place, value in enumerate(ordered(column.unique()))}
    return column.map(lambda value: rank[_key(value)])


def _missing(value: Any) -> bool:
    return value is None or value != value
