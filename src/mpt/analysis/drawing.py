"""Draw points in the paper's layout: a panel for each network, bars from the lowest to the highest seed.

The bytes of a file depend on the table alone. So the drawing uses matplotlib's defaults instead of the user's settings,
a fixed salt for the names in an SVG, and no date.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mpt.analysis.aggregate import level, numeric_rows, points, require, select, select_sweep, sort_naturally
from mpt.analysis.figures import Figure
from mpt.analysis.labels import axis_factor, axis_label, line_label, name_of, panel_title
from mpt.analysis.lines import Line
from mpt.analysis.marks import COLUMN, STYLES, marks
from mpt.analysis.panel import draw_panel, draw_published, place_names
from mpt.files import CONF

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure as Drawing

NO_DATE: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None, "Creator": "mpt"},
    ".pdf": {"CreationDate": None, "Creator": "mpt", "Producer": "mpt"},
    ".png": {"Software": "mpt"},
}
_COLUMNS = 4  # panels in a row


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
            named = values.get("variant", values.get("method"))
            kind = "dense" if dense or named == "dense" else str(named) if named else label
            line = _build_line(figure, group, column, label=label, kind=kind, across=across)
            panels.setdefault(panel_title(values, figure.panel), []).append(line)
    return {name: sorted(panels[name], key=lambda line: line.kind == "dense") for name in sort_naturally(list(panels))}


def draw(
    figure: Figure,
    table: pd.DataFrame,
    *,
    published: pd.DataFrame | None = None,
    style: str = "screen",
    title: str | None = None,
) -> Drawing:
    """Draw ``figure`` from the rows of ``table`` that :func:`select_runs` selected.

    Args:
        figure: what to draw.
        table: the runs.
        published: the papers' numbers to add.
        style: ``screen``, or ``paper``: as wide as a column, 3.3 inches, in 8 points, without a title of its own.
        title: instead of the figure's own; empty for none.
    """
    from matplotlib.figure import Figure as Drawing

    quoted = [] if published is None else _published_rows(figure, published, table)
    panels = [(y, name, drawn) for y in figure.y for name, drawn in _panels(figure, table, quoted, y).items()]
    most = _COLUMNS if style == "screen" else 1 if quoted and not figure.joined else 2  # names need room
    columns = min(most, max(1, len(panels) // len(figure.y)))
    rows = -(-len(panels) // columns)
    size = (
        (COLUMN, (2.2 if published is not None else 1.55) * rows + 0.5)
        if style == "paper"
        else (max(3.1 * columns, 5.4), 2.7 * rows + 0.9)
    )
    with deterministic(style):
        drawing = Drawing(figsize=size, layout="constrained")
        shared = columns >= len(panels) and "data" not in figure.panel
        grid = drawing.subplots(rows, columns, squeeze=False, sharey="row" if shared else False)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        looks = marks(_labels(panels))
        names = []
        for axes, (y, name, drawn) in zip(grid.flat, panels, strict=False):
            draw_panel(axes, figure, drawn, looks)
            names.append((axes, draw_published(axes, figure, _rows_of_panel(quoted, figure, name, y), y=y)))
            axes.set_title(name)
            last = list(grid.flat).index(axes) + columns >= len(panels)
            axes.set_xlabel(axis_label(figure.x) if last or style == "screen" else "")
            if len(figure.y) > 1 or axes.get_subplotspec().is_first_col():
                axes.set_ylabel(axis_label(y))
        _draw_legend(drawing, [*looks])
        drawing.caption = caption = _caption(figure, table, panels)  # type: ignore[attr-defined]
        shown = title if title is not None else "" if style == "paper" else caption
        if shown:
            drawing.suptitle(textwrap.fill(shown, int((17 if style == "paper" else 12) * size[0])), fontsize="medium")
        if left_out := place_names(drawing, [(axes, points) for axes, points in names if points]):
            drawing.caption += f"; without room for the names {', '.join(left_out)}"  # type: ignore[attr-defined]
    return drawing


@contextmanager
def deterministic(style: str = "") -> Iterator[None]:
    """Use matplotlib's defaults and ``style`` instead of the user's settings, and the same names in every SVG."""
    import matplotlib as mpl
    from matplotlib.style import context

    with context("default"), mpl.rc_context({"svg.hashsalt": "mpt"} | STYLES.get(style, {})):
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


def _build_line(figure: Figure, group: pd.DataFrame, y: str, *, label: str, kind: str, across: bool) -> Line:
    scaled = {name: [axis_factor(y) * value for value in group[name]] for name in ("mean", "lowest", "highest")}
    values = [] if across else group[figure.x]
    x = [value if isinstance(value, str) else axis_factor(figure.x) * value for value in values]
    return Line(label, x, **scaled, n=[int(n) for n in group["n"]], kind=kind, across=across)


def _labels(panels: list[tuple[str, str, list[Line]]]) -> dict[str, str]:
    """Every label once with its kind, the dense network last."""
    kinds = {line.label: line.kind for _, _, drawn in panels for line in drawn}
    return dict(sorted(kinds.items(), key=lambda item: item[1] == "dense"))


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


def _draw_legend(drawing: Drawing, labels: list[str]) -> None:
    """Draw one legend for all panels, in the order of ``labels``; matplotlib would list lines with bars last."""
    from matplotlib import rcParams

    handles: dict[str, Any] = {}
    for axes in drawing.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label:
                handles.setdefault(label, handle)
    handles = {label: handles[label] for label in dict.fromkeys([*labels, *handles]) if label in handles}
    if handles:
        letters = float(rcParams["legend.fontsize"]) / 72  # inches
        width = 0.55 * letters * max(map(len, handles)) + 4 * letters  # approximate width of an entry
        drawing.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=max(1, min(len(handles), int(drawing.get_figwidth() / width))),
            frameon=False,
            columnspacing=1.2,
        )


def _caption(figure: Figure, table: pd.DataFrame, panels: list[tuple[str, str, list[Line]]]) -> str:
    """Title, data, whether the runs are small, and n, which every number needs."""
    parts = []
    if "data" in table and "data" not in figure.panel:
        parts.append(", ".join(name_of(value) for value in sort_naturally(table["data"].dropna().unique())))
    if "budget" in table and "mini" in {*table["budget"].dropna()}:
        parts.append("small runs")
    n = sorted({n for _, _, drawn in panels for line in drawn for n in line.n})
    seeds = f"{n[0]}" if n[0] == n[-1] else f"{n[0]} to {n[-1]}"
    hollow = ", hollow: one seed" if n[0] == 1 else ""
    parts.append(f"mean of {seeds} seeds, bars from lowest to highest{hollow}" if n[-1] > 1 else "one seed")
    return f"{figure.title}: {', '.join(parts)}"
