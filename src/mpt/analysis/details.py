"""What lies beside a run's result: its epochs, the layers of its ticket, the distribution of its scores.

``metrics.jsonl`` is written by every run. ``report.json`` is what ``mpt-ticket report`` says of a ticket: ``layers`` (a
row each: density, gain, zero kernels and chance and, made from a checkpoint, ``scores``, a histogram).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpt.analysis.table import Runs, check_finished, histograms, is_setting, left_out, load, read_runs, to_table

if TYPE_CHECKING:
    import pandas as pd

BINS = 101  # of a distribution of scores, between -m and m, m the largest of all runs in that layer
_Rows = Callable[[Path], Iterator[dict[str, Any]]]


def load_rows(path: str | Path, rows: str, *, told: Callable[[Runs], None] | None = None) -> pd.DataFrame:
    """The table of ``path`` with a row a run (``rows="runs"``), or a run and epoch, layer, or bin of the scores.

    A .csv or .parquet file has the rows that it has. ``told`` as for :func:`mpt.analysis.table.load`.

    Raises:
        ValueError: nothing is there, or no finished run has the file that such rows are made of.
    """
    path = Path(path)
    if rows == "runs" or path.is_file():
        return load(path, told=told)
    read, file, needs = _KINDS[rows]
    runs, made = read_runs(path), list[dict[str, Any]]()
    for run in runs.rows:
        settings = {key: value for key, value in run.items() if is_setting(key) or key in ("run", "variant")}
        if (path / run["run"] / file).is_file():
            with left_out(runs, f"{run['run']}/{file}"):
                made += [settings | row for row in read(path / run["run"] / file)]
    if told:
        told(runs)
    check_finished(runs, path)
    if not made:
        raise ValueError(f"no finished run below {path} has {needs}")
    table = to_table(made)
    return _one_grid(table) if rows == "scores" else table


def load_epochs(path: str | Path) -> pd.DataFrame:
    """One row a run and epoch: ``epoch test/acc ticket/flips ticket/gain/<layer> ...`` beside the run's settings."""
    return load_rows(path, "epochs")


def _epochs(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def _layers(file: Path) -> Iterator[dict[str, Any]]:
    for place, row in enumerate(json.loads(file.read_text(encoding="utf-8")).get("layers", [])):
        yield {
            "layer": row["name"],
            "place": place,
            **{k: v for k, v in row.items() if k not in ("name", "shape", "scores")},
        }


def _scores(file: Path) -> Iterator[dict[str, Any]]:
    for layer, found in histograms(json.loads(file.read_text(encoding="utf-8"))).items():
        for low, high, count in zip(found["edges"], found["edges"][1:], found["counts"], strict=False):
            yield {"layer": layer, "low": low, "high": high, "count": count}


def _one_grid(table: pd.DataFrame) -> pd.DataFrame:
    """Histograms with edges of their own to one grid a network and layer: ``score`` (middle of a bin) and ``share``.

    Scores of one old bin count as spread evenly over it.
    """
    import numpy as np
    import pandas as pd

    made = []
    for _, own in table.groupby(["model", "layer"], sort=False):
        most = max(own["high"].abs().max(), own["low"].abs().max())
        edges = np.linspace(-most, most, BINS + 1)
        for _, run in own.groupby("run", sort=False):
            run = run.sort_values("low")
            below = np.concatenate([[0], np.cumsum(run["count"])])
            share = np.diff(np.interp(edges, [*run["low"], run["high"].iloc[-1]], below)) / below[-1]
            grid = {"score": (edges[1:] + edges[:-1]) / 2, "share": share}
            about = run.drop(columns=["low", "high", "count"]).iloc[[0] * BINS]
            made.append(about.reset_index(drop=True).assign(**grid))
    return pd.concat(made, ignore_index=True)


_KINDS: dict[str, tuple[_Rows, str, str]] = {
    "epochs": (_epochs, "metrics.jsonl", "a metrics.jsonl that can be read"),
    "layers": (_layers, "report.json", "a report.json: mpt-ticket report writes it"),
    "scores": (
        _scores,
        "report.json",
        "a report.json with scores: mpt-ticket report checkpoint=... json=... writes it",
    ),
}
