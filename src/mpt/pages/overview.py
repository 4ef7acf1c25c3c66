"""What a page shows of many runs together: their states, their figure, their table with n, and the papers' claims."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mpt.analysis.aggregate import STATISTICS, follows, spell, summary
from mpt.analysis.claims import CLAIMS
from mpt.analysis.drawing import lines, select_runs
from mpt.analysis.figures import FIGURES, Figure
from mpt.analysis.labels import axis_factor, axis_label
from mpt.analysis.lines import Line
from mpt.analysis.marks import places
from mpt.analysis.plotting import get_figure
from mpt.analysis.reports import report_row
from mpt.analysis.table import flat_row, is_setting, to_table, unusable
from mpt.analysis.verdicts import judge
from mpt.pages.charts import Chart, short, thin
from mpt.pages.read import Run
from mpt.run.status import STATES
from mpt.schema import printable

if TYPE_CHECKING:
    import pandas as pd

_FREE = ("seed", "sweep", "budget", "protocol", "method", "binary_activations", "learn_batchnorm", "data_checksum")
_HUES = 3  # settings besides the variant that tell lines apart


@dataclass(frozen=True)
class Verdict:
    """One claim of a paper and what the runs say of it."""

    claim: str
    word: str
    n: str
    text: str
    numbers: str


@dataclass(frozen=True)
class Overview:
    """What is shown before the runs.

    Attributes:
        counts: state -> number of runs, of those that occur.
        title: of the figure.
        charts: its panels, then the accuracy of all runs over their epochs.
        head, rows: the table: mean, lowest and highest over seeds, with n.
        verdicts: the claims, those that can be tested first.
        notes: why something is missing, a sentence each.
    """

    counts: dict[str, int]
    title: str = ""
    charts: list[Chart] = field(default_factory=list)
    head: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def overview(runs: Sequence[Run], *, figure: str | None = None, most: int) -> Overview:
    """The overview of ``runs``.

    Args:
        runs: as :func:`mpt.pages.read.read_run` returns them.
        figure: one of :data:`mpt.analysis.figures.FIGURES`; None for that of the sweep, or one that suits the runs.
        most: points of a curve.

    Raises:
        ValueError: there is no such figure.
    """
    if figure:
        get_figure(figure)
    counts = {state: number for state in STATES if (number := sum(run.state == state for run in runs))}
    progress = over_epochs(runs, most=most)
    done = [run for run in runs if run.state == "done" and not unusable(run.result)]
    rows = [flat_row(run.result, run.name) | report_row(run.report) for run in done]
    if not rows:
        return Overview(counts, charts=progress, notes=[_why_nothing(counts)])
    table, notes = to_table(rows), list[str]()
    title, panels = _figure(table, figure, notes)
    head, cells = _table(table, notes)
    return Overview(counts, title, [*panels, *progress], head, cells, _verdicts(table), notes)


def _why_nothing(counts: dict[str, int]) -> str:
    if not counts:
        return "There is no run yet."
    if {*counts} <= {"done", "failed"}:
        return "No run has a result, so there is no figure, table or verdict."
    return "No run has a result yet: the figure, the table and the verdicts follow."


def over_epochs(runs: Sequence[Run], *, most: int) -> list[Chart]:
    """The test accuracy of every run over its epochs; a line leads to its run."""
    drawn = list[dict[str, Any]]()
    for run in runs:
        points = [(row["epoch"], row["test/acc"]) for row in run.metrics if row.get("test/acc") is not None]
        if points:
            x, y = zip(*thin(points, most), strict=True)
            label, values = printable(run.name, 200), [short(100 * acc) for acc in y]
            drawn.append({"label": label, "colour": len(drawn), "x": x, "y": values, "link": run.key})
    title = "Test accuracy over the epochs, of every run"
    return [{"title": title, "x": "epoch", "y": "test accuracy (%)", "lines": drawn, "many": True}] if drawn else []


def choose_figure(table: pd.DataFrame) -> Figure:
    """A figure that suits the runs: over P or another number that varies; the other settings tell lines apart."""
    varied = [c for c in table if is_setting(c) and c not in _FREE and table[c].nunique(dropna=False) > 1]
    numbers = [c for c in varied if table[c].dtype.kind in "iuf" and table[c].notna().all()]
    x = next((c for c in ("prune", "width", *numbers) if c in numbers), "prune")
    others = [c for c in varied if c not in (x, "model", "data") and not follows(table, c, ["variant"])]
    return get_figure(None, x=x, y="test_acc", hue=("variant", *others[:_HUES]), panel=("data", "model"))


def wanted_figures(table: pd.DataFrame, name: str | None) -> list[tuple[str | None, Figure]]:
    """The figures to try in turn: the one of this ``name`` or of the runs' sweep, then one that suits the runs."""
    names = sorted({str(sweep) for sweep in table["sweep"].dropna()}) if "sweep" in table else []
    own = names[0] if len(names) == 1 and names[0] in FIGURES and FIGURES[names[0]].rows == "runs" else None
    first = name or own
    return [*([(first, FIGURES[first])] if first else []), (None, choose_figure(table))]


def _figure(table: pd.DataFrame, name: str | None, notes: list[str]) -> tuple[str, list[Chart]]:
    for title, figure in wanted_figures(table, name):
        try:
            rows = select_runs(figure, table, name=title)
            panels = [(y, panel, drawn) for y in figure.y for panel, drawn in lines(figure, rows, y=y).items()]
            colours = line_colours({line.label: line.kind for _, _, drawn in panels for line in drawn})
            charts = [_panel(figure, y, panel, drawn, colours) for y, panel, drawn in panels]
            return (figure.title if title else _title(figure)), charts
        except ValueError as error:
            notes.append(f"{title or 'The figure'} cannot be drawn: {error}")
    return "", []


def _title(figure: Figure) -> str:
    y, x = (axis_label(name).removesuffix(" (%)") for name in (figure.y[0], figure.x))
    return f"{y[:1].upper()}{y[1:]} over {x}"


def line_colours(kinds: Mapping[str, str]) -> dict[str, int | str]:
    """Label -> colour: that of its kind in the figures of ``mpt-plot``, or a free one if several lines share a kind."""
    numbers: dict[str, int | str] = {**places(kinds.values()), "dense": "dense"}
    alone = {label for label, kind in kinds.items() if [*kinds.values()].count(kind) == 1}
    free = (i for i in itertools.count() if i not in {numbers[kinds[label]] for label in alone})
    return {label: numbers[kind] if label in alone else next(free) for label, kind in kinds.items()}


def _panel(figure: Figure, y: str, title: str, drawn: list[Line], colours: Mapping[str, int | str]) -> Chart:
    factors = list(dict.fromkeys(value for line in drawn for value in line.x if isinstance(value, str)))
    lines = []
    for line in drawn:
        values = {"y": line.mean, "low": line.lowest, "high": line.highest}
        about = {"label": line.label, "colour": colours[line.label], "n": line.n, "across": line.across}
        lines.append(about | {"x": line.x} | {key: [short(v) for v in each] for key, each in values.items()})
    chart = {"title": title, "x": axis_label(figure.x), "y": axis_label(y), "lines": lines, "log": figure.log}
    return chart | {"joined": figure.joined} | ({"factors": factors} if factors else {})


def _table(table: pd.DataFrame, notes: list[str]) -> tuple[list[str], list[list[str]]]:
    try:
        found = summary(table)
    except ValueError as error:
        notes.append(f"The table cannot be made: {error}")
        return [], []
    factor = axis_factor("test_acc")
    head = [f"{name} %" if name in STATISTICS[:3] else printable(name, 60) for name in found.columns]
    cells = [
        [f"{factor * row[c]:.2f}" if c in STATISTICS[:3] else printable(spell(row[c]), 200) for c in found.columns]
        for row in found.to_dict("records")
    ]
    return head, cells


def _verdicts(table: pd.DataFrame) -> list[Verdict]:
    judged = sorted(judge(table), key=lambda verdict: verdict.shown is None)
    return [
        Verdict(
            verdict.claim,
            verdict.word,
            ""
            if verdict.n is None
            else f"{verdict.n[0]}"
            if len({*verdict.n}) == 1
            else f"{verdict.n[0]} to {verdict.n[1]}",
            CLAIMS[verdict.claim].text,
            printable(verdict.numbers, 10_000),
        )
        for verdict in judged
    ]
