"""A figure of points: the paper's layout, a panel for each network, bars from lowest to highest over seeds.

The bytes of a file follow from the table alone: matplotlib's own defaults whatever the user's settings, a fixed salt for
the names inside an SVG, no date.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mpt.analysis.figures import Figure
from mpt.analysis.aggregate import ordered, points, require, select, spelled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

LABELS = {
    "prune": "weights pruned (%)",
    "density": "weights kept (%)",
    "width": "width factor",
    "num_kept": "weights",
    "test_acc": "test accuracy (%)",
    "test_acc_max": "test accuracy of the best epoch (%)",
    "test/acc": "test accuracy (%)",
    "epoch": "epoch",
    "optim.lr": "learning rate",
    "seconds_per_epoch": "seconds an epoch",
}
NO_DATE: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None, "Creator": "mpt"},
    ".pdf": {"CreationDate": None, "Creator": "mpt", "Producer": "mpt"},
    ".png": {"Software": "mpt"},
}
_MARKERS, _STYLES, _COLUMNS = "osD^vP*X", ("-", "--", "-.", (0, (1, 1))), 4


@dataclass
class Line:
    """One line of a panel: points as they are drawn; ``across`` is a dense network over a whole axis."""

    label: str
    x: list[Any]
    mean: list[float]
    lowest: list[float]
    highest: list[float]
    n: list[int]
    across: bool = False
    names: list[str] = field(default_factory=list)


def percent(column: str) -> float:
    """100 for fractions, which are percent on an axis; 1 for everything else."""
    word = column.rsplit("/", 1)[-1]
    shown = word.startswith(("prune", "density", "sparsity", "flips", "zero_kernels")) or "acc" in word.split("_")
    return 100.0 if shown else 1.0


def of_figure(figure: Figure, table: pd.DataFrame, *, name: str | None = None) -> pd.DataFrame:
    """The rows of ``table`` that ``figure`` is about; those of the sweep ``name`` alone, where the table has any."""
    require(table, [*figure.where, figure.x, *figure.y, *figure.hue, *figure.panel])
    if name and "sweep" in table and (table["sweep"] == name).any():
        table = table[table["sweep"] == name]
    for column, values in figure.where.items():
        table = select(table, {column: values})
    return table[table[figure.x].notna()]


def lines(figure: Figure, table: pd.DataFrame, *, y: str) -> dict[str, list[Line]]:
    """Panel -> its lines, in percent where :func:`percent` says so. Panels and lines in their natural order."""
    hue = [name for name in figure.hue if name not in figure.panel]
    dense = (table["variant"] == "dense") if "variant" in table and figure.x in ("prune", "density") else None
    parts = [(table, False)] if dense is None else [(table[~dense], False), (table[dense], True)]
    made: dict[str, list[Line]] = {}
    for part, across in parts:
        if part.empty:
            continue
        by = [*dict.fromkeys([*figure.panel, *hue, *([] if across else [figure.x]), *figure.apart])]
        found = points(part, by=by, y=y)
        for keys, group in found.groupby([*figure.panel, *hue], dropna=False, sort=False):
            values = dict(zip([*figure.panel, *hue], keys, strict=True))
            line = _line(figure, group, y, label=_label(values, hue), across=across)
            made.setdefault(_title(values, figure.panel), []).append(line)
    return {panel: sorted(made[panel], key=lambda line: line.label == "dense") for panel in ordered(list(made))}


def draw(figure: Figure, table: pd.DataFrame, *, published: pd.DataFrame | None = None) -> Drawing:
    """The drawing of ``figure`` from the rows of ``table`` that :func:`of_figure` chose."""
    from matplotlib.figure import Figure as Drawing

    panels = [(y, panel, found) for y in figure.y for panel, found in lines(figure, table, y=y).items()]
    published = published if published is not None and not published.empty else None
    columns = min(_COLUMNS, max(1, len(panels) // len(figure.y)))
    rows = -(-len(panels) // columns)
    with deterministic():
        drawing = Drawing(figsize=(max(3.1 * columns, 5.2), 2.7 * rows + 0.9), layout="constrained")
        grid = drawing.subplots(rows, columns, squeeze=False, sharey="row" if columns >= len(panels) else False)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        styles = {label: i for i, label in enumerate(_labels(panels))}
        for axes, (y, panel, found) in zip(grid.flat, panels, strict=False):
            _panel(axes, figure, found, styles)
            if published is not None:
                _published(axes, figure, published, panel=panel, y=y)
            axes.set(title=panel, xlabel=LABELS.get(figure.x, figure.x))
            if axes.get_subplotspec().is_first_col():
                axes.set_ylabel(LABELS.get(y, y))
        _legend(drawing)
        drawing.suptitle(_caption(figure, table, panels), fontsize="medium")
    return drawing


@contextmanager
def deterministic() -> Iterator[None]:
    """matplotlib as it comes, whatever the user's own settings, and the same names inside an SVG every time."""
    import matplotlib as mpl
    from matplotlib.style import context

    with context("default"), mpl.rc_context({"svg.hashsalt": "mpt"}):
        yield


def _line(figure: Figure, group: pd.DataFrame, y: str, *, label: str, across: bool) -> Line:
    scaled = {name: [percent(y) * value for value in group[name]] for name in ("mean", "lowest", "highest")}
    x = [] if across else [value if isinstance(value, str) else percent(figure.x) * value for value in group[figure.x]]
    names = [" ".join(spelled(row[c]) for c in figure.apart) for _, row in group.iterrows()] if figure.apart else []
    return Line(label, x, **scaled, n=[int(n) for n in group["n"]], across=across, names=names)


def _label(values: dict[str, Any], hue: list[str]) -> str:
    """``MPT-1/32, 90 % pruned``; a dense network is ``dense`` whatever a ticket's settings would be."""
    is_dense = "dense" in (values.get("variant"), values.get("method"))
    words = []
    for name in hue:
        value = values[name]
        if value is None or value != value or (is_dense and name == "prune"):
            continue
        if name in ("variant", "method", "model", "data"):
            words.append(str(value))
        elif name == "prune":
            words.append(f"{100 * value:g} % pruned")
        else:
            words.append(f"{name.rsplit('.', 1)[-1].replace('_', ' ')} {spelled(value)}")
    return ", ".join(words) or ("dense" if hue else "")


def _title(values: dict[str, Any], panel: tuple[str, ...]) -> str:
    return ", ".join(
        spelled(values[name]) if name in ("model", "data", "variant", "method") else f"{name} {spelled(values[name])}"
        for name in panel
    )


def _labels(panels: list[tuple[str, str, list[Line]]]) -> list[str]:
    """Every label once, the dense network last."""
    labels = dict.fromkeys(line.label for _, _, found in panels for line in found)
    return sorted(labels, key=lambda label: label == "dense")


def _panel(axes: Axes, figure: Figure, found: list[Line], styles: dict[str, int]) -> None:
    places = _places(found)
    for line in found:
        i = styles[line.label]
        color = "0.35" if line.label == "dense" else f"C{i % 10}"
        if line.across:
            _across(axes, line, color)
            continue
        error = [
            [m - low for m, low in zip(line.mean, line.lowest, strict=True)],
            [high - m for m, high in zip(line.mean, line.highest, strict=True)],
        ]
        if places:
            side = 0.8 / len(found)
            at = [places[value] + (found.index(line) - (len(found) - 1) / 2) * side for value in line.x]
            axes.bar(at, line.mean, width=side, yerr=error, color=color, label=line.label, error_kw={"capsize": 2})
            continue
        style: Any = "none" if not figure.joined else ":" if line.label == "dense" else _STYLES[i % len(_STYLES)]
        marker = _MARKERS[i % len(_MARKERS)]
        axes.errorbar(
            line.x, line.mean, error, color=color, ls=style, marker=marker, ms=4, capsize=2.5, label=line.label
        )
    if places:
        axes.set_xticks(list(places.values()), list(places), rotation=60, ha="right", fontsize="x-small")
    if figure.log:
        axes.set_xscale("log")
    axes.grid(alpha=0.25)


def _places(found: list[Line]) -> dict[str, int]:
    """Text on the horizontal axis -> its place, in the order in which it comes; nothing for numbers."""
    words = dict.fromkeys(value for line in found for value in line.x if isinstance(value, str))
    return {word: place for place, word in enumerate(words)}


def _across(axes: Axes, line: Line, color: str) -> None:
    """A dense network: one horizontal line at its mean, a band from lowest to highest. Several sizes, several lines."""
    for mean, low, high in zip(line.mean, line.lowest, line.highest, strict=True):
        axes.axhline(mean, ls=":", color=color, label=line.label)
        if high > low:
            axes.axhspan(low, high, color=color, alpha=0.12, lw=0)


def _published(axes: Axes, figure: Figure, published: pd.DataFrame, *, panel: str, y: str) -> None:
    """What the papers print, hollow, without bars: their tables say no spread."""
    for kind, group in published[published[y].notna()].groupby("kind", sort=False):
        group = group[[_title(row, figure.panel) == panel for row in group.to_dict("records")]]
        if group.empty:
            continue
        x, mean = percent(figure.x) * group[figure.x], percent(y) * group[y]
        axes.plot(x, mean, ls="none", marker="s", mfc="none", color="0.5", ms=6, label=f"{kind} (published)")


def _legend(drawing: Drawing) -> None:
    handles: dict[str, Any] = {}
    for axes in drawing.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label:
                handles.setdefault(label, handle)
    if handles:
        drawing.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=min(4, len(handles)),
            frameon=False,
            fontsize="small",
        )


def _caption(figure: Figure, table: pd.DataFrame, panels: list[tuple[str, str, list[Line]]]) -> str:
    """Title, data, budget and n: what a number needs beside it."""
    parts = []
    for name in ("data", "budget"):
        if name in table and name not in figure.panel:
            values = ", ".join(spelled(value) for value in ordered(table[name].unique()))
            parts.append(f"budget {values}" if name == "budget" else values)
    n = sorted({n for _, _, found in panels for line in found for n in line.n})
    seeds = f"{n[0]}" if n[0] == n[-1] else f"{n[0]} to {n[-1]}"
    parts.append(f"mean of {seeds} seeds, bars from lowest to highest" if n[-1] > 1 else "one seed")
    return f"{figure.title}: {', '.join(parts)}"

