"""Draw points in the paper's layout: a panel for each network, bars from the lowest to the highest seed.

The bytes of a file depend on the table alone. So the drawing uses matplotlib's defaults instead of the user's settings,
a fixed salt for the names in an SVG, and no date.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mpt.analysis.aggregate import level, numeric_rows, points, require, select, select_sweep, sort_naturally, spell
from mpt.analysis.figures import Figure
from mpt.analysis.labels import axis_factor, axis_label, line_label, panel_title
from mpt.files import CONF

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

NO_DATE: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None, "Creator": "mpt"},
    ".pdf": {"CreationDate": None, "Creator": "mpt", "Producer": "mpt"},
    ".png": {"Software": "mpt"},
}
_MARKERS, _STYLES = "osD^vP*X", ("-", "--", "-.", (0, (1, 1)))
_COLUMNS = 4  # panels in a row
_MANY = 25  # a line with more points has no markers, and a band instead of bars


@dataclass
class Line:
    """One line of a panel, in the units of the axes; ``across`` draws it horizontally over the whole panel."""

    label: str
    x: list[Any]
    mean: list[float]
    lowest: list[float]
    highest: list[float]
    n: list[int]
    across: bool = False


def select_runs(figure: Figure, table: pd.DataFrame, *, name: str | None = None) -> pd.DataFrame:
    """Select the rows of ``table`` that ``figure`` shows, only from the sweep ``name`` if the table has any of it.

    Raises:
        ValueError: a column is missing, or has no value in any of these rows.
    """
    require(table, [*figure.where, *figure.hue, *figure.panel, *figure.apart])
    table = select(select_sweep(table, name), where_of(figure, table, name=name))
    for column in (*figure.needs, figure.x):
        require(table, [column])
        table = table[table[column].notna()]
        if table.empty:
            raise ValueError(f"no run has a value of {column}: choose another column")
    for y in figure.y:
        numeric_rows(table, y)
    return table


def where_of(figure: Figure, table: pd.DataFrame, *, name: str | None = None) -> dict[str, tuple[str, ...]]:
    """What a run must have for ``figure``: its ``where``, and methods of your own next to its variants.

    All variants of the sweep ``name`` are shown: somebody added them to it.
    """
    where = dict(figure.where)
    if "variant" in where and "method" in table:
        known = {path.stem for path in (CONF / "method").glob("*.yaml")}
        rows = table if name is None or "sweep" not in table else table[table["sweep"] == name]
        own = table[~table["method"].isin(known) & ~table["method"].str.startswith("finetune_")]
        added = [] if name is None or rows is table else [*rows["variant"].unique()]
        where["variant"] = tuple(dict.fromkeys([*where["variant"], *own["variant"].unique(), *added]))
    return where


def lines(figure: Figure, table: pd.DataFrame, *, y: str) -> dict[str, list[Line]]:
    """Panel -> its lines, scaled by :func:`axis_factor`. Panels and lines are in their natural order."""
    panels: dict[str, list[Line]] = {}
    separate = figure.x in ("prune", "density") or not {"variant", "method"} & {*figure.hue}  # else a hue separates it
    is_dense = (table["variant"] == "dense") & separate if "variant" in table else table.index != table.index
    parts = [(table[~is_dense], False, y), (table[is_dense], True, y)]
    parts += [(table, False, figure.reference)] if figure.reference else []
    for part, dense, column in parts:
        across = dense and figure.x in ("prune", "density")
        for values, group in _line_points(figure, part, column, across=across):
            label = line_label(values, figure.hue, dense=dense) or axis_label(column)
            label += ", by chance" if figure.hue and column == figure.reference else ""
            line = _build_line(figure, group, column, label=label, across=across)
            panels.setdefault(panel_title(values, figure.panel), []).append(line)
    return {name: sorted(panels[name], key=lambda line: line.label == "dense") for name in sort_naturally(list(panels))}


def draw(figure: Figure, table: pd.DataFrame, *, published: pd.DataFrame | None = None) -> Drawing:
    """Draw ``figure`` from the rows of ``table`` that :func:`select_runs` selected."""
    from matplotlib.figure import Figure as Drawing

    quoted = [] if published is None else _published_rows(figure, published, table)
    panels = [(y, title, drawn) for y in figure.y for title, drawn in _panels(figure, table, quoted, y).items()]
    columns = min(_COLUMNS, max(1, len(panels) // len(figure.y)))
    rows = -(-len(panels) // columns)
    with deterministic():
        drawing = Drawing(figsize=(max(3.1 * columns, 5.4), 2.7 * rows + 0.9), layout="constrained")
        grid = drawing.subplots(rows, columns, squeeze=False, sharey="row" if columns >= len(panels) else False)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        styles = {label: i for i, label in enumerate(_labels(panels))}
        for axes, (y, title, drawn) in zip(grid.flat, panels, strict=False):
            _draw_panel(axes, figure, drawn, styles)
            _draw_published(axes, figure, _rows_of_panel(quoted, figure, title, y), y=y)
            axes.set(title=title, xlabel=axis_label(figure.x))
            if len(figure.y) > 1 or axes.get_subplotspec().is_first_col():
                axes.set_ylabel(axis_label(y))
        _draw_legend(drawing)
        drawing.suptitle(_caption(figure, table, panels, width=drawing.get_figwidth()), fontsize="medium")
    return drawing


@contextmanager
def deterministic() -> Iterator[None]:
    """Use matplotlib's defaults instead of the user's settings, and the same names in every SVG."""
    import matplotlib as mpl
    from matplotlib.style import context

    with context("default"), mpl.rc_context({"svg.hashsalt": "mpt"}):
        yield


def _line_points(
    figure: Figure, part: pd.DataFrame, y: str, *, across: bool
) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield (values of panel and hue, points) for each line; with ``across`` one point for all x."""
    part = part[part[y].notna()]
    if part.empty:
        return
    part = level(part, figure.x) if figure.rows == "runs" else part
    lines = [*dict.fromkeys([*figure.panel, *figure.hue])]
    by = [*dict.fromkeys([*lines, *([] if across else [figure.x]), *figure.apart])]
    for keys, group in points(part, by=by, y=y).groupby(lines, dropna=False, sort=False):
        yield dict(zip(lines, keys, strict=True)), group


def _build_line(figure: Figure, group: pd.DataFrame, y: str, *, label: str, across: bool) -> Line:
    scaled = {name: [axis_factor(y) * value for value in group[name]] for name in ("mean", "lowest", "highest")}
    values = [] if across else group[figure.x]
    x = [value if isinstance(value, str) else axis_factor(figure.x) * value for value in values]
    return Line(label, x, **scaled, n=[int(n) for n in group["n"]], across=across)


def _labels(panels: list[tuple[str, str, list[Line]]]) -> list[str]:
    """Every label once, the dense network last."""
    labels = dict.fromkeys(line.label for _, _, drawn in panels for line in drawn)
    return sorted(labels, key=lambda label: label == "dense")


def _draw_panel(axes: Axes, figure: Figure, drawn: list[Line], styles: dict[str, int]) -> None:
    positions = _positions(drawn)
    for line in drawn:
        i = styles[line.label]
        color = "0.35" if line.label == "dense" else f"C{i % 10}"
        if line.across:
            _draw_across(axes, line, color)
            continue
        error = [
            [m - low for m, low in zip(line.mean, line.lowest, strict=True)],
            [high - m for m, high in zip(line.mean, line.highest, strict=True)],
        ]
        if positions:
            width = 0.8 / len(drawn)
            at = [positions[value] + (drawn.index(line) - (len(drawn) - 1) / 2) * width for value in line.x]
            axes.bar(at, line.mean, width=width, yerr=error, color=color, label=line.label, error_kw={"capsize": 2})
            continue
        style: Any = "none" if not figure.joined else ":" if line.label == "dense" else _STYLES[i % len(_STYLES)]
        if len(line.x) > _MANY:
            axes.plot(line.x, line.mean, color=color, ls=style, label=line.label)
            axes.fill_between(line.x, line.lowest, line.highest, color=color, alpha=0.15, lw=0)
            continue
        marker = _MARKERS[i % len(_MARKERS)]
        axes.errorbar(
            line.x, line.mean, error, color=color, ls=style, marker=marker, ms=4, capsize=2.5, label=line.label
        )
    if positions:
        axes.set_xticks(list(positions.values()), list(positions), rotation=60, ha="right", fontsize="x-small")
    if figure.log:
        axes.set_xscale("log")
    axes.grid(alpha=0.25)


def _positions(drawn: list[Line]) -> dict[str, int]:
    """Text on the horizontal axis -> its position, in order of appearance; empty for numbers."""
    words = dict.fromkeys(value for line in drawn for value in line.x if isinstance(value, str))
    return {word: position for position, word in enumerate(words)}


def _draw_across(axes: Axes, line: Line, color: str) -> None:
    """Draw a horizontal line at each mean, with a band from lowest to highest; several sizes give several lines."""
    for mean, low, high in zip(line.mean, line.lowest, line.highest, strict=True):
        axes.axhline(mean, ls=":", color=color, label=line.label)
        if high > low:
            axes.axhspan(low, high, color=color, alpha=0.12, lw=0)


def _published_rows(figure: Figure, published: pd.DataFrame, table: pd.DataFrame) -> list[dict[str, Any]]:
    """The published rows with the columns that they state, repeated for each of our panels that they may belong to."""
    stated = [name for name in figure.panel if name in published and published[name].notna().all()]
    ours = table[[*figure.panel]].drop_duplicates()
    rows = published.drop(columns=[name for name in figure.panel if name not in stated], errors="ignore")
    rows = rows.merge(ours, on=stated, how="left").to_dict("records")
    return [{name: value for name, value in row.items() if value == value} for row in rows]


def _panels(figure: Figure, table: pd.DataFrame, quoted: list[dict[str, Any]], y: str) -> dict[str, list[Line]]:
    """Panel -> our lines; after ours, panels for networks and images that only published rows have."""
    theirs = dict.fromkeys(panel_title(row, figure.panel) for row in quoted if y in row)
    ours = lines(figure, table, y=y)
    return ours | {panel: [] for panel in theirs if panel not in ours}


def _rows_of_panel(quoted: list[dict[str, Any]], figure: Figure, panel: str, y: str) -> list[dict[str, Any]]:
    return [row for row in quoted if y in row and panel_title(row, figure.panel) == panel]


def _draw_published(axes: Axes, figure: Figure, rows: list[dict[str, Any]], *, y: str) -> None:
    """Draw the papers' numbers with hollow markers and without bars, since their tables state no spread."""
    hue = tuple(name for name in figure.hue if name != "variant")
    labels = [(line_label(row, hue) if hue else row["kind"]) + " (published)" for row in rows]
    for i, label in enumerate(dict.fromkeys(labels)):
        line = [row for row, row_label in zip(rows, labels, strict=True) if row_label == label]
        x, mean = [axis_factor(figure.x) * row[figure.x] for row in line], [axis_factor(y) * row[y] for row in line]
        style: Any = ":" if figure.joined else "none"
        axes.plot(x, mean, ls=style, marker="sdvo"[i % 4], mfc="none", color=f"C{5 + i % 5}", label=label)
        if not figure.joined:
            for row, at, acc in zip(line, x, mean, strict=True):
                axes.annotate(
                    row["method"], (at, acc), xytext=(3, 2), textcoords="offset points", fontsize=4.5, color="0.4"
                )


def _draw_legend(drawing: Drawing) -> None:
    handles: dict[str, Any] = {}
    for axes in drawing.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label:
                handles.setdefault(label, handle)
    order = sorted(handles, key=lambda label: (label.endswith("(published)"), label == "dense"))
    handles = {label: handles[label] for label in order}
    if handles:
        width = 0.07 * max(map(len, handles)) + 0.6  # approximate width of an entry, in inches
        drawing.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=max(1, min(len(handles), int(drawing.get_figwidth() / width))),
            frameon=False,
            fontsize="small",
        )


def _caption(figure: Figure, table: pd.DataFrame, panels: list[tuple[str, str, list[Line]]], *, width: float) -> str:
    """Title, data, budget and n, which every number needs."""
    parts = []
    for name in ("data", "budget"):
        values = sort_naturally(table[name].dropna().unique()) if name in table and name not in figure.panel else []
        if values:
            parts.append(("budget " if name == "budget" else "") + ", ".join(map(spell, values)))
    n = sorted({n for _, _, drawn in panels for line in drawn for n in line.n})
    seeds = f"{n[0]}" if n[0] == n[-1] else f"{n[0]} to {n[-1]}"
    parts.append(f"mean of {seeds} seeds, bars from lowest to highest" if n[-1] > 1 else "one seed")
    return textwrap.fill(f"{figure.title}: {', '.join(parts)}", int(12 * width))
