"""Aggregate a table to points: mean, lowest and highest over seeds, with n. Only seeds are averaged."""

from __future__ import annotations

import difflib
import numbers
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mpt.analysis.table import BASE, SETTINGS, is_setting

if TYPE_CHECKING:
    import pandas as pd

_OF_FILES = ("ticket_digest", "distill_checksum")
_FREE = ("seed", "sweep", *_OF_FILES)  # runs of one point may differ in these if their seeds differ too
_CHOICES = ("sweep", *_OF_FILES, "run", "epoch", "layer")  # columns that can select one of several rows of a seed
STATISTICS = ("mean", "lowest", "highest", "n")


def require(table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise a ValueError if ``table`` lacks one of ``columns``; it names the nearest ones, and where all are."""
    for name in columns:
        if name not in table:
            known = [str(column) for column in table.columns]
            if close := difflib.get_close_matches(name, known, n=3):
                raise ValueError(f"the table has no column {name}: did you mean {' or '.join(close)}?")
            near = difflib.get_close_matches(name, known, n=5, cutoff=0.0)
            raise ValueError(
                f"the table has no column {name}: take one such as {', '.join(near)}; mpt-results DIR -o runs.csv "
                f"writes all {len(known)}, with their names in the first line"
            )


def numeric_rows(table: pd.DataFrame, y: str) -> pd.DataFrame:
    """The rows with a number in column ``y``; ValueError if the column is missing, empty, or holds anything else."""
    require(table, [y])
    rows = table[table[y].notna()]
    if rows.empty and not table.empty:
        raise ValueError(f"no run has a value of {y}: choose another column")
    if not all(isinstance(value, numbers.Real) for value in rows[y]):
        raise ValueError(f"{y} holds no numbers, and only numbers have a mean: choose a column such as test_acc")
    return rows


def select(table: pd.DataFrame, where: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """The rows in which every column of ``where`` has one of the given values, as text or as numbers.

    Raises:
        ValueError: a column is missing, or no row matches; the sentence lists the existing values.
    """
    for name, values in where.items():
        require(table, [name])
        rows = table[table[name].map(_key).isin({_key(value) for value in values})]
        if rows.empty:
            existing = ", ".join(spell(value) for value in sort_naturally(table[name].unique()))
            raise ValueError(f"no run has {name}={','.join(map(spell, values))}: take one of {existing}")
        table = rows
    return table


def select_sweep(table: pd.DataFrame, name: str | None) -> pd.DataFrame:
    """The runs of the sweep ``name``, or all runs if the table has none of that sweep."""
    if name is None or "sweep" not in table or not (table["sweep"] == name).any():
        return table
    return table[table["sweep"] == name]


def points(table: pd.DataFrame, *, by: Sequence[str], y: str) -> pd.DataFrame:
    """One row per combination of the columns ``by``, with ``mean lowest highest n`` of ``y`` over seeds.

    Rows with equal settings and equal ``y`` count once. Rows without ``y`` do not count.

    Raises:
        ValueError: a column is missing, ``y`` has no numbers, the runs of one point differ in a setting other than
            their seed, or one seed has several values of ``y``.
    """
    require(table, by)
    table = numeric_rows(table, y)
    table = _drop_repeats(table, by, y)
    _refuse_mixtures(table, by)
    _refuse_repeats(table, by, y)
    grouped = table.groupby(list(by), dropna=False, sort=False)[y].agg(["mean", "min", "max", "count"])
    rows = grouped.set_axis(list(STATISTICS), axis=1).reset_index()
    return rows.sort_values(list(by), key=_natural_column, kind="stable").reset_index(drop=True)


def level(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """``table`` with the mean over seeds in a measured ``column`` of numbers, so that it may tell points apart.

    Runs that differ in nothing but their seed have one value then. A setting, text and equal values stay as they are.
    """
    if is_setting(column) or "seed" not in table or not all(isinstance(v, numbers.Real) for v in table[column]):
        return table
    settings = [name for name in table.columns if is_setting(name) and name not in _FREE]
    groups = table.groupby(settings, dropna=False)[column] if settings else None
    if groups is None:
        return table
    return table.assign(**{column: table[column].where(groups.transform("nunique") == 1, groups.transform("mean"))})


def summary(table: pd.DataFrame, *, y: str = "test_acc") -> pd.DataFrame:
    """One point per combination of settings, with the main columns and those settings that distinguish the rows.

    If a repeated run of a seed gave another result, each has its own row, told apart by sweep, ticket or run.
    """
    settings = [name for name in table.columns if is_setting(name) and name not in _FREE]
    by = [*(name for name in BASE if name in table), *(name for name in settings if name not in BASE)]
    by += _repeat_column(numeric_rows(table, y), by, y)
    rows = points(table, by=by, y=y)
    columns = [name for name in BASE if name in by]
    columns += [name for name in by if name not in (*columns, "method") and rows[name].nunique(dropna=False) > 1]
    implied = [name for name in columns if name not in BASE and follows(rows, name, [*BASE])]
    return rows[[name for name in columns if name not in implied] + list(STATISTICS)]


def sort_naturally(values: Sequence[Any]) -> list[Any]:
    """Sort numbers by size and text as people count (conv2, conv4, conv10), missing values last."""
    return sorted(values, key=_natural)


def spell(value: Any) -> str:
    """Write a value as on a command line: ``0.5``, ``20``, ``true``, ``conv4``."""
    if _missing(value):
        return "none"
    if str(value) in ("True", "False"):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _refuse_mixtures(table: pd.DataFrame, by: Sequence[str]) -> None:
    others = [n for n in table.columns if is_setting(n) and n not in (*by, *_FREE) and not _in_variant(n, by)]
    others = [n for n in others if _varies(table[n])]  # of a hundred settings, few do
    if not others or table.empty:
        return
    counts = table.groupby(list(by), dropna=False)[others].nunique(dropna=False).max()
    mixed = [name for name in others if counts[name] > 1]
    if mixed:
        mixed.sort(key=lambda name: SETTINGS.index(name) if name in SETTINGS else len(SETTINGS))
        values = ", ".join(spell(value) for value in sort_naturally(table[mixed[0]].unique())[:6])
        also = f" (and in {', '.join(mixed[1:5])})" if mixed[1:] else ""
        raise ValueError(
            f"the runs of one point also differ in {mixed[0]}: {values}{also}; select one with --where {mixed[0]}=..., "
            "or draw each with --hue or --panel"
        )


def _varies(column: pd.Series) -> bool:
    """Whether ``column`` has more than one value; missing ones are equal."""
    values = column.tolist()
    if values and _missing(values[0]):
        return bool(column.notna().any())
    return bool(values) and values.count(values[0]) < len(values)


def _drop_repeats(table: pd.DataFrame, by: Sequence[str], y: str) -> pd.DataFrame:
    """Keep the first of all rows with equal settings and equal ``y``."""
    if "seed" not in table:
        return table
    names = dict.fromkeys([*(name for name in table.columns if is_setting(name) and name != "sweep"), *by, y])
    return table.drop_duplicates([name for name in names if _varies(table[name])] or [y])


def _repeat_column(table: pd.DataFrame, by: Sequence[str], y: str) -> list[str]:
    """The column that distinguishes several rows of one seed, in a list; an empty list if every seed has one row."""
    table = _drop_repeats(table, by, y)
    for names in ([], *([name] for name in _CHOICES if name in table)):
        if "seed" not in table or not table.duplicated([*by, *names, "seed"]).any():
            return names
    return []


def _refuse_repeats(table: pd.DataFrame, by: Sequence[str], y: str) -> None:
    """Raise a ValueError if a seed has several rows: a repeated run with another result or ticket is no second seed."""
    point = [*dict.fromkeys([*by, "seed"])]
    repeats = table[table.duplicated(point, keep=False)] if "seed" in table else table[:0]
    if repeats.empty:
        return
    first = repeats[(repeats[point].map(_key) == repeats[point].iloc[0].map(_key)).all(axis=1)]
    choices = [name for name in _CHOICES if name in first and first[name].nunique(dropna=False) > 1]
    names = ", ".join(map(str, first["run"].unique()[:4])) if "run" in first else f"{len(first)} rows"
    how = " or ".join(f"--where {name}={spell(first[name].iloc[0])}" for name in choices)
    raise ValueError(
        f"seed {spell(first['seed'].iloc[0])} occurs {len(first)} times with equal settings and different {y}, "
        f"which is no spread over seeds: {names}; select one{f', for instance with {how}' if how else ''}"
    )


def _in_variant(name: str, by: Sequence[str]) -> bool:
    """True for a setting that the column ``variant`` already contains."""
    return "variant" in by and name in ("method", "binary_activations", "learn_batchnorm")


def follows(rows: pd.DataFrame, name: str, base: Sequence[str]) -> bool:
    """True if ``name`` has one value for each combination of ``base``, so that it distinguishes no rows."""
    base = [column for column in base if column in rows]
    return bool(base) and bool((rows.groupby(base, dropna=False)[name].nunique(dropna=False) == 1).all())


def _key(value: Any) -> str:
    """A text that is equal for 0.5, "0.5" and "0.50", and for True, "true" and "True"."""
    text = spell(value)
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
    rank = {_key(value): place for place, value in enumerate(sort_naturally(column.unique()))}
    return column.map(lambda value: rank[_key(value)])


def _missing(value: Any) -> bool:
    return value is None or value != value
