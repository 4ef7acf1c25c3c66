"""Details of a run that its result leaves out: its epochs, the layers of its ticket, the distribution of its scores.

Every run writes ``metrics.jsonl``. ``mpt-ticket report`` writes ``report.json``, whose ``layers`` have one entry each:
density, gain, zero kernels, and zero kernels by chance. From a checkpoint it adds ``scores``, a histogram.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpt.analysis.reports import histograms, read_report
from mpt.analysis.table import Runs, check_finished, is_setting, load, read_runs, skip_unreadable, to_table
from mpt.run.result import METRICS_FILE, read_metrics

if TYPE_CHECKING:
    import pandas as pd

BINS = 101  # bins of a score distribution on [-m, m], where m is the largest |score| of all runs in that layer
_Rows = Callable[[Path], Iterator[dict[str, Any]]]


def load_rows(path: str | Path, rows: str, *, notify: Callable[[Runs], None] | None = None) -> pd.DataFrame:
    """Load the table of ``path`` with one row per run (``rows="runs"``), or per run and epoch, layer, or score bin.

    A .csv or .parquet file is loaded as it is. For ``notify`` see :func:`mpt.analysis.table.load`.

    Raises:
        ValueError: ``path`` does not exist, or no finished run has the file that holds such rows.
    """
    path = Path(path)
    if rows == "runs" or path.is_file():
        return load(path, notify=notify)
    read, file, needs = _KINDS[rows]
    runs, details = read_runs(path), list[dict[str, Any]]()
    for run in runs.rows:
        settings = {key: value for key, value in run.items() if is_setting(key) or key in ("run", "variant")}
        if (path / run["run"] / file).is_file():
            with skip_unreadable(runs, f"{run['run']}/{file}"):
                details += [settings | row for row in read(path / run["run"] / file)]
    if notify:
        notify(runs)
    check_finished(runs, path)
    if not details:
        raise ValueError(f"no finished run below {path} has {needs}")
    table = to_table(details)
    return _regrid(table) if rows == "scores" else table


def load_epochs(path: str | Path) -> pd.DataFrame:
    """One row per run and epoch: ``epoch test/acc ticket/flips ticket/gain/<layer> ...`` and the run's settings."""
    return load_rows(path, "epochs")


def _epochs(file: Path) -> Iterator[dict[str, Any]]:
    yield from read_metrics(file.parent)


def _layers(file: Path) -> Iterator[dict[str, Any]]:
    for place, row in enumerate(read_report(file).get("layers", [])):
        numbers = {k: v for k, v in row.items() if not isinstance(v, (list, dict)) and k not in ("name", "scores")}
        yield {"layer": row["name"], "place": place, **numbers}


def _scores(file: Path) -> Iterator[dict[str, Any]]:
    for layer, bins in histograms(read_report(file)).items():
        for low, high, count in zip(bins["edges"], bins["edges"][1:], bins["counts"], strict=False):
            yield {"layer": layer, "low": low, "high": high, "count": count}


def _regrid(table: pd.DataFrame) -> pd.DataFrame:
    """Put histograms with different edges on one grid per network and layer: ``score`` (middle of a bin), ``share``.

    The scores of each old bin are taken as evenly distributed over it.
    """
    import numpy as np
    import pandas as pd

    parts = []
    for _, layer in table.groupby(["model", "layer"], sort=False):
        limit = max(layer["high"].abs().max(), layer["low"].abs().max())
        edges = np.linspace(-limit, limit, BINS + 1)
        for _, run in layer.groupby("run", sort=False):
            run = run.sort_values("low")
            below = np.concatenate([[0], np.cumsum(run["count"])])
            share = np.diff(np.interp(edges, [*run["low"], run["high"].iloc[-1]], below)) / below[-1]
            grid = {"score": (edges[1:] + edges[:-1]) / 2, "share": share}
            settings = run.drop(columns=["low", "high", "count"]).iloc[[0] * BINS]
            parts.append(settings.reset_index(drop=True).assign(**grid))
    return pd.concat(parts, ignore_index=True)


_KINDS: dict[str, tuple[_Rows, str, str]] = {
    "epochs": (_epochs, METRICS_FILE, "a readable metrics.jsonl"),
    "layers": (_layers, "report.json", "a report.json: write it with mpt-ticket report"),
    "scores": (
        _scores,
        "report.json",
        "a report.json with scores: write it with mpt-ticket report checkpoint=... json=...",
    ),
}
