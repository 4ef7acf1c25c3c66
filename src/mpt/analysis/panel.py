"""One panel: lines, bars and horizontal lines with their marks, the axes, and the papers' numbers with their names."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mpt.analysis.aggregate import spell
from mpt.analysis.labels import axis_factor, line_label
from mpt.analysis.lines import Line
from mpt.analysis.marks import COLORS, Mark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from mpt.analysis.figures import Figure

_MANY = 25  # a line with more points has no markers, and a band instead of bars
_APART = 2.4  # points between the bars, or the only points, of two lines at the same place
SMALLEST = 6  # points, of the smallest letters
_RADII = (5, 9, 14, 20, 27, 35, 45, 60, 80)  # points, from a published point to its name
_LEADER = {"arrowstyle": "-", "lw": 0.4, "color": "0.6", "shrinkA": 0, "shrinkB": 2}


def draw_panel(axes: Axes, figure: Figure, drawn: Sequence[Line], marks: Mapping[str, Mark]) -> None:
    """Draw the lines of a panel; a hollow marker is one seed."""
    positions = _positions(drawn)
    curves = [line for line in drawn if not line.across]
    for place, line in enumerate(curves):
        mark = marks[line.label]
        error = [
            [m - low for m, low in zip(line.mean, line.lowest, strict=True)],
            [high - m for m, high in zip(line.mean, line.highest, strict=True)],
        ]
        shift = place - (len(curves) - 1) / 2
        if positions:
            width = 0.8 / len(curves)
            at = [positions[value] + shift * width for value in line.x]
            axes.bar(
                at, line.mean, width=width, yerr=error, color=mark.color, label=line.label, error_kw={"capsize": 2}
            )
        elif len(line.x) > _MANY:
            style = mark.line if figure.joined else "none"
            axes.plot(line.x, line.mean, color=mark.color, ls=style, label=line.label)
            axes.fill_between(line.x, line.lowest, line.highest, color=mark.color, alpha=0.15, lw=0)
        else:
            _draw_points(axes, figure, line, mark, error, shift=_APART * shift)
    for line in drawn:
        if line.across:
            _draw_across(axes, line, marks[line.label])
    _draw_axis(axes, figure, drawn, positions)


def _draw_points(axes: Axes, figure: Figure, line: Line, mark: Mark, error: Any, *, shift: float) -> None:
    from matplotlib.transforms import ScaledTranslation

    several = max(line.n) > 1
    by = ScaledTranslation(shift / 72, 0, axes.get_figure().dpi_scale_trans)  # type: ignore[union-attr]
    style = mark.line if figure.joined else "none"
    look: dict[str, Any] = {"color": mark.color, "marker": mark.marker}
    apart = several or len(line.x) == 1  # points without a line to follow would hide one another
    look |= {"transform": axes.transData + by} if apart and shift else {}
    axes.update_datalim([*zip(line.x, line.lowest, strict=True), *zip(line.x, line.highest, strict=True)])
    axes.autoscale_view()
    if several:
        axes.errorbar(line.x, line.mean, error, ls=style, capsize=2, elinewidth=1, label=line.label, **look)
        alone = [i for i, n in enumerate(line.n) if n == 1]
        if alone:
            x, mean = [line.x[i] for i in alone], [line.mean[i] for i in alone]
            axes.plot(x, mean, ls="none", mfc="white", label="_one seed", zorder=3, **look)
    else:
        axes.plot(line.x, line.mean, ls=style, mfc="white", label=line.label, **look)


def _draw_axis(axes: Axes, figure: Figure, drawn: Sequence[Line], positions: Mapping[str, int]) -> None:
    from matplotlib import ticker

    if positions:
        axes.set_xticks(list(positions.values()), list(positions), rotation=60, ha="right", fontsize="small")
    elif figure.x == "width":
        values = sorted({float(value) for line in drawn for value in line.x})
        axes.set_xscale("log", base=2)
        axes.set_xticks(values, [spell(value) for value in values])
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        if values:
            axes.set_xlim(values[0] / 1.15, values[-1] * 1.15)
    elif figure.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(_few_ticks())
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: short(value)))
    else:
        axes.locator_params(axis="x", nbins=6)
    axes.grid(alpha=0.25)


def short(value: float) -> str:
    """A number in few letters: ``0.01``, ``500``, ``20k``, ``1.5M``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _few_ticks() -> Any:
    """Ticks at powers of ten; within two of them also at twice and five times a power."""
    from matplotlib.ticker import LogLocator

    class Few(LogLocator):
        def tick_values(self, low: float, high: float) -> Any:
            decades = math.log10(max(high, 1e-300) / max(low, 1e-300))
            self.set_params(subs=(1.0,) if decades > 2 else (1.0, 3.0) if decades > 1 else (1.0, 2.0, 5.0))
            return super().tick_values(low, high)

    return Few(numticks=6)


def _positions(drawn: Sequence[Line]) -> dict[str, int]:
    """Text on the horizontal axis -> its position, in order of appearance; empty for numbers."""
    words = dict.fromkeys(value for line in drawn for value in line.x if isinstance(value, str))
    return {word: position for position, word in enumerate(words)}


def _draw_across(axes: Axes, line: Line, mark: Mark) -> None:
    """Draw a horizontal line at each mean, with a band from lowest to highest; several sizes give several lines."""
    for mean, low, high in zip(line.mean, line.lowest, line.highest, strict=True):
        axes.axhline(mean, ls=":", color=mark.color, label=line.label)
        if high > low:
            axes.axhspan(low, high, color=mark.color, alpha=0.12, lw=0)


def draw_published(axes: Axes, figure: Figure, rows: Sequence[Mapping[str, Any]], *, y: str) -> list[Any]:
    """Draw the papers' numbers with hollow markers and without bars, since their tables state no spread.

    Returns the names of points that are not joined, for :func:`place_names`: name, x, y.
    """
    hue = tuple(name for name in figure.hue if name != "variant")
    labels = [(line_label(row, hue) if hue else row["kind"]) + " (published)" for row in rows]
    names: list[Any] = []
    for i, label in enumerate(dict.fromkeys(labels)):
        line = [row for row, row_label in zip(rows, labels, strict=True) if row_label == label]
        x, mean = [axis_factor(figure.x) * row[figure.x] for row in line], [axis_factor(y) * row[y] for row in line]
        style: Any = ":" if figure.joined else "none"
        color = COLORS[(3 + i) % len(COLORS)]
        axes.plot(x, mean, ls=style, marker="sdvo"[i % 4], mfc="none", color=color, label=label)
        names += [] if figure.joined else [(row["method"], *at) for row, *at in zip(line, x, mean, strict=True)]
    return names


def place_names(drawing: Drawing, names: Sequence[tuple[Axes, Sequence[Any]]]) -> list[str]:
    """Write each name where it covers no text and no point, with a thin line to its point; return those left out."""
    drawing.draw_without_rendering()  # type: ignore[no-untyped-call]
    left_out = []
    for axes, points in names:
        placed: list[Any] = []
        inside = axes.get_window_extent()
        marks = [axes.transData.transform(point[1:]) for point in points]
        for name, across, up in dict.fromkeys(map(tuple, points)):
            at = (across, up)
            text = axes.annotate(
                name, at, (0, 0), textcoords="offset points", fontsize=SMALLEST, color="0.3", va="center"
            )
            for radius, angle in itertools.product(_RADII, range(16)):
                x, y = radius * math.cos(math.pi * angle / 8), radius * math.sin(math.pi * angle / 8)
                text.set_position((x, y))
                text.set_horizontalalignment("left" if x > -0.01 else "right")
                box = text.get_window_extent()
                around = box.padded(4)
                fits = inside.x0 < box.x0 and box.x1 < inside.x1 and inside.y0 < box.y0 and box.y1 < inside.y1
                if fits and not any(box.overlaps(b) for b in placed) and not any(around.contains(*m) for m in marks):
                    placed.append(box)
                    if radius > _RADII[0]:
                        axes.annotate("", at, (x, y), textcoords="offset points", arrowprops=_LEADER)
                    break
            else:
                text.remove()
                left_out.append(name)
    return left_out
