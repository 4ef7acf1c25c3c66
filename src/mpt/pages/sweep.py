"""A sweep for loggers: a table of its runs with values as they are, and its figure as pixels."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mpt.analysis.drawing import draw, select_runs
from mpt.analysis.table import read_runs, to_table
from mpt.pages.overview import wanted_figures
from mpt.run.config import read_config
from mpt.run.name import flat, purpose
from mpt.run.status import State
from mpt.schema import printable

ALWAYS = ("model.name", "method.name", "prune", "width", "seed")  # settings with a column of their own
NUMBERS = ("test_acc", "test_acc_max", "density", "num_kept", "bits_per_weight", "file_bits_per_weight", "ticket_bytes")
TIMES = ("epochs", "seconds", "images_per_second")


def runs_table(states: Sequence[State]) -> tuple[list[str], list[list[Any]]]:
    """Head and rows: of each run its name and state, its settings that differ from another run's, and its numbers.

    Numbers are as in ``result.json``, and None for a run that has none.
    """
    results = [state.content for state in states]
    settings = [_settings(state, found) for state, found in zip(states, results, strict=True)]
    names = {name for each in settings for name in each if purpose(name) == "result" and name not in ALWAYS}
    varied = sorted(name for name in names if len({repr(each.get(name)) for each in settings}) > 1)
    columns = [*ALWAYS, *varied]
    numbers = (*NUMBERS, *TIMES)
    rows = [
        [state.directory.name, state.state, *(_plain(each.get(c)) for c in columns), *(found.get(n) for n in numbers)]
        for state, each, found in zip(states, settings, results, strict=True)
    ]
    return ["run", "state", *_one_type(columns, rows), *numbers], rows


def sweep_figure(folder: Path, *, dpi: int = 110) -> np.ndarray | None:
    """The figure of the finished runs in ``folder``, uint8 (height, width, 3); None if they have none."""
    rows = [row for row in read_runs(folder).rows if row.get("status") == "done"]
    if not rows:
        return None
    table = to_table(rows)
    for name, figure in wanted_figures(table, None):
        try:
            drawing = draw(figure, select_runs(figure, table, name=name))
        except ValueError:  # the figure of the paper does not suit these runs, or none does
            continue
        file = io.BytesIO()
        drawing.savefig(file, format="png", dpi=dpi)
        return np.asarray(Image.open(file).convert("RGB"))
    return None


def _settings(state: State, found: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return flat(found.get("config") or read_config(state.directory))
    except (OSError, ValueError):
        return {}


def _plain(value: Any) -> Any:
    return printable(str(value), 200) if isinstance(value, (str, list, dict)) else value


def _one_type(columns: list[str], rows: list[list[Any]]) -> list[str]:
    """Make text of every column of ``rows`` that holds text next to numbers; return ``columns``."""
    for place in range(2, 2 + len(columns)):
        values = [row[place] for row in rows if row[place] is not None]
        if len({_kind(value) for value in values}) > 1:
            for row in rows:
                row[place] = None if row[place] is None else str(row[place])
    return columns


def _kind(value: Any) -> type:
    return float if isinstance(value, int) and not isinstance(value, bool) else type(value)
