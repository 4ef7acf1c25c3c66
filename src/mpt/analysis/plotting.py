"""Turn a folder of runs, or a table, into a figure. ``mpt-plot`` and notebooks call :func:`plot` and :func:`save`."""

from __future__ import annotations

import difflib
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mpt.analysis.aggregate import select
from mpt.analysis.details import load_rows
from mpt.analysis.drawing import NO_DATE, deterministic, draw, select_runs
from mpt.analysis.figures import FIGURES, Figure
from mpt.analysis.labels import axis_label
from mpt.analysis.marks import STYLES
from mpt.analysis.papers import published as published_rows
from mpt.files import is_stream, write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure as Drawing


def plot(
    runs: str | Path | pd.DataFrame,
    *,
    figure: str | None = None,
    x: str | None = None,
    y: str | Sequence[str] = "test_acc",
    hue: str | Sequence[str] = "variant",
    panel: str | Sequence[str] = "model",
    where: Mapping[str, Sequence[Any]] = MappingProxyType({}),
    published: bool = False,
    style: str = "screen",
    title: str | None = None,
) -> Drawing:
    """Draw a figure of the papers by name, or ``y`` over ``x`` with a line per ``hue`` and a panel per ``panel``.

    Args:
        runs: a folder of runs, a .csv or .parquet table of ``mpt-results``, or a table from :func:`load`.
        figure: a name in ``FIGURES``; without it, ``x`` must name a column.
        x, y, hue, panel: one column each; ``y``, ``hue`` and ``panel`` also take several.
        where: values that columns must have, as ``{"width": [1]}``.
        published: add the numbers printed in the papers.
        style: ``screen``, or ``paper``: 3.3 inches wide, 8 points, no title.
        title: of the figure, instead of the one that says data and seeds; empty for none.

    Raises:
        ValueError: a column or value is missing, or the runs of one point differ in more than their seed.
    """
    if style not in STYLES:
        raise ValueError(f"style must be {' or '.join(STYLES)}, got {style}")
    spec = get_figure(figure, x=x, y=y, hue=hue, panel=panel)
    if published and not spec.published:
        raise ValueError(f"the papers print no numbers for {figure or 'this figure'}: leave published out")
    table = load_rows(runs, spec.rows) if isinstance(runs, (str, Path)) else runs
    missing = [name for name in (*spec.where, spec.x, *spec.y, *spec.hue, *spec.panel) if name not in table]
    if figure and missing:
        raise ValueError(f"{figure} needs runs with {', '.join(missing)}, which these runs lack: choose other runs")
    quoted = published_rows(spec.published, paper=spec.paper) if published else None
    rows = select_runs(spec, select(table, where), name=figure)
    return draw(spec, rows, published=quoted, style=style, title=title)


def save(drawing: Drawing, path: str | Path, *, dpi: float = 150) -> None:
    """Write a .png, .svg or .pdf file, whole or not at all; equal drawings give equal bytes. ``dpi`` is for .png."""
    path = Path(path)
    suffix, buffer = check_output(path, tuple(NO_DATE)), io.BytesIO()
    with deterministic():
        drawing.savefig(buffer, format=suffix[1:], dpi=dpi, metadata=NO_DATE[suffix])
    write_atomically(path, buffer.getvalue())


def check_output(path: Path, suffixes: Sequence[str]) -> str:
    """The suffix of ``path``, one of ``suffixes``; the first of them for a device or a pipe, such as /dev/stdout.

    Raises:
        ValueError: ``path`` has another suffix, or no folder; before any work is done.
    """
    if path.suffix not in suffixes and is_stream(path):
        return suffixes[0]
    if path.suffix not in suffixes:
        raise ValueError(f"-o must end in {' or '.join(suffixes)} here, got {path.name!r}")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} for {path.name}: create it first")
    return path.suffix


def get_figure(figure: str | None, *, x: str | None = None, **columns: str | Sequence[str]) -> Figure:
    """The figure with that name, or a custom figure over ``x``; ValueError with all names for an unknown one."""
    if not figure:
        return _custom_figure(x, **columns)
    if figure not in FIGURES:
        close = difflib.get_close_matches(figure, FIGURES, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"there is no figure {figure!r}{hint}: take one of {', '.join(FIGURES)}")
    return FIGURES[figure]


def _custom_figure(x: str | None, **columns: str | Sequence[str]) -> Figure:
    if not x:
        raise ValueError("say what to draw: a figure of the papers (figure=) or a column (x=)")
    axes: dict[str, Any] = {key: (value,) if isinstance(value, str) else tuple(value) for key, value in columns.items()}
    rows = {"epoch": "epochs", "layer": "layers", "score": "scores"}.get(x, "runs")
    custom = Figure("", x, joined=x != "num_kept", rows=rows, **axes)
    return replace(custom, title=f"{' and '.join(map(_words, custom.y))} over {_words(x)}")


def _words(column: str) -> str:
    return axis_label(column).removesuffix(" (%)")
