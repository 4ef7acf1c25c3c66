"""From a folder of runs, or a table, to a figure: what ``mpt-plot`` and a notebook call."""

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
from mpt.analysis.drawing import NO_DATE, deterministic, draw, of_figure
from mpt.analysis.figures import FIGURES, Figure
from mpt.analysis.papers import published as published_rows
from mpt.files import write_atomically

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
) -> Drawing:
    """A figure of the papers by its name, or ``y`` over ``x``, a line for each ``hue`` and a panel for each ``panel``.

    Args:
        runs: a folder of runs, a .csv or .parquet table of ``mpt-results``, or a table from :func:`load`.
        figure: a name in ``FIGURES``; without it ``x`` says what is drawn.
        x, y, hue, panel: columns; several where a sequence is given.
        where: values that columns must have, as ``{"width": [1]}``.
        published: what the papers' text prints beside it.

    Raises:
        ValueError: a column or value that is not there, or runs of one point that differ in more than their seed.
    """
    spec = chosen(figure, x=x, y=y, hue=hue, panel=panel)
    if published and not spec.published:
        raise ValueError(f"the papers' text prints no numbers for {figure or 'such a figure'}: leave published out")
    table = load_rows(runs, spec.rows) if isinstance(runs, (str, Path)) else runs
    missing = [name for name in (*spec.where, spec.x, *spec.y, *spec.hue, *spec.panel) if name not in table]
    if figure and missing:
        raise ValueError(f"{figure} needs runs with {', '.join(missing)}, which these do not have")
    quoted = published_rows(spec.published, paper=spec.paper) if published else None
    return draw(spec, of_figure(spec, select(table, where), name=figure), published=quoted)


def save(drawing: Drawing, path: str | Path) -> None:
    """Write .png, .svg or .pdf, whole or not at all; the same drawing gives the same bytes."""
    path = Path(path)
    check_output(path, tuple(NO_DATE))
    buffer = io.BytesIO()
    with deterministic():
        drawing.savefig(buffer, format=path.suffix[1:], dpi=150, metadata=NO_DATE[path.suffix])
    write_atomically(path, buffer.getvalue())


def check_output(path: Path, suffixes: Sequence[str]) -> None:
    """ValueError if ``path`` cannot be written for a reason that is known beforehand."""
    if path.suffix not in suffixes:
        raise ValueError(f"-o must end in {' or '.join(suffixes)} here, got {path.name!r}")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} for {path.name}: make it first")


def chosen(figure: str | None, *, x: str | None = None, **columns: str | Sequence[str]) -> Figure:
    """The figure of that name, or one of one's own over ``x``; ValueError with the names that there are."""
    if not figure:
        return _free(x, **columns)
    if figure not in FIGURES:
        close = difflib.get_close_matches(figure, FIGURES, n=1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"there is no figure {figure!r}{meant}: take one of {', '.join(FIGURES)}")
    return FIGURES[figure]


def _free(x: str | None, **columns: str | Sequence[str]) -> Figure:
    if not x:
        raise ValueError("say what to draw: a figure of the papers (figure=) or a column (x=)")
    own: dict[str, Any] = {key: (value,) if isinstance(value, str) else tuple(value) for key, value in columns.items()}
    rows = {"epoch": "epochs", "layer": "layers", "score": "scores"}.get(x, "runs")
    made = Figure("", x, joined=x != "num_kept", rows=rows, **own)
    return replace(made, title=f"{' and '.join(made.y)} over {x}")
