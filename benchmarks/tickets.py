"""Accuracy against time and size, of the tickets of a folder of finished runs, and of their dense networks.

    python -m benchmarks.tickets measure RUNS results/speed/tickets.csv    time each ticket, one thread, batch 1
    python -m benchmarks.tickets draw results/speed/tickets.csv docs/speed.svg

A row is a run computed one way: a ticket by torch, lists and unrolled code, a dense network by torch and, with the
extra ``bench``, by onnxruntime in float32. All runs of one network are timed in turn in one process
(:mod:`mpt.engine.speed`). ``bits`` counts the whole file, a weight.
"""

from __future__ import annotations

import argparse
import csv
import io
from functools import partial
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import rivals
from benchmarks.engine_report import NAMES
from mpt.analysis.plotting import save
from mpt.analysis.table import read_runs
from mpt.engine.speed import ENGINES, LAYOUTS, compare_speed
from mpt.files import write_atomically
from mpt.ticket.ticket import Ticket

ABOUT = ("model", "variant", "width", "prune", "seed", "epochs", "num_train", "test_acc", "num_test", "num_weights")
COLUMNS = (*ABOUT, "ticket_bytes", "bits", "engine", "ms", "ratio", "error", "machine", "code", "load_average", "torch")
LINES = {"torch": ("s", "0.35", ":"), "lists": ("o", "C0", "-"), "unrolled": ("D", "C1", "--")}
RIVAL = "onnxruntime"
STARS = {"torch": "k", RIVAL: "none"}  # what fills the star of the dense network, by what computes it


def measure(folder: Path, *, seconds: float) -> list[dict[str, Any]]:
    """The rows of the networks of which ``folder`` holds a dense run and tickets."""
    runs = sorted(read_runs(folder).rows, key=lambda run: (run["model"], run["width"], run["prune"]))
    rows = []
    for _, group in groupby(runs, key=lambda run: (run["model"], run["width"])):
        network = list(group)
        if "dense" not in {run["variant"] for run in network}:
            continue
        tickets = [Ticket.load(folder / run["run"] / "ticket.safetensors") for run in network]
        side = network[0].get("data.image_size") or tickets[0].image_shape[1]
        with TemporaryDirectory() as files:
            make = partial(rivals.make, folder=Path(files), missing={}, names=[RIVAL])
            times = compare_speed(*tickets, batch=1, image_size=side, rivals=make, seconds=seconds)
        for run, timed in zip(network, times, strict=True):
            about = {name: run[name] for name in ABOUT} | {"ticket_bytes": run["ticket_bytes"]}
            about |= {"bits": 8 * run["ticket_bytes"] / run["num_weights"], "torch": timed["versions"]["torch"]}
            about |= {name: timed[name] for name in ("machine", "code", "load_average")}
            best = min(LAYOUTS, key=lambda layout: timed["ms"][layout])
            for engine in ("torch", *((RIVAL,) if run["variant"] == "dense" else ENGINES)):
                if engine == RIVAL not in timed["ms"]:  # it is not installed
                    continue
                name = best if engine == "torch" else engine
                error = timed["error"].get(engine, "")
                rows.append(
                    about | {"engine": engine, "ms": timed["ms"][name], "ratio": timed["ratio"][name], "error": error}
                )
    return rows


def write(rows: list[dict[str, Any]], path: Path) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{value:.5g}" if isinstance(value, float) else value for key, value in row.items()})
    write_atomically(path, text.getvalue())


def read(path: Path) -> list[dict[str, Any]]:
    numbers = ("width", "prune", "test_acc", "bits", "ms")
    with path.open() as file:
        return [row | {name: float(row[name]) for name in numbers} for row in csv.DictReader(file)]


def draw(rows: list[dict[str, Any]]) -> Any:
    """A row of panels for each network: accuracy over milliseconds a picture, and over bits a weight."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    from mpt.analysis.drawing import deterministic

    models = list(dict.fromkeys(row["model"] for row in rows))
    with deterministic():
        drawing = Figure(figsize=(7.2, 2.7 * len(models) + 0.9), layout="constrained")
        grid = drawing.subplots(len(models), 2, squeeze=False, sharey="row")
        for (left, right), model in zip(grid, models, strict=True):
            ours = [row for row in rows if row["model"] == model]
            for engine, (marker, color, style) in LINES.items():
                tickets = [row for row in ours if row["engine"] == engine and row["variant"] != "dense"]
                _line(left, tickets, "ms", marker=marker, color=color, ls=style, label=f"ticket, {engine}")
                for row in tickets if engine == "unrolled" else []:
                    _annotate(left, row, "ms")
            tickets = [row for row in ours if row["engine"] == "torch" and row["variant"] != "dense"]
            _line(right, tickets, "bits", marker="o", color="C2", ls="-", label="ticket file")
            for row in tickets:
                _annotate(right, row, "bits")
            for axes, x in ((left, "ms"), (right, "bits")):
                for engine, fill in STARS.items() if x == "ms" else [("torch", "k")]:
                    dense = [row for row in ours if row["variant"] == "dense" and row["engine"] == engine]
                    style = {"marker": "*", "color": "k", "mfc": fill, "ls": "none", "ms": 9}
                    _line(axes, dense, x, label=f"dense, {engine}", **style)
                axes.set_xscale("log")
                axes.grid(alpha=0.25)
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.xaxis.set_major_formatter("{x:g}")
                axes.xaxis.set_minor_formatter(NullFormatter())
                axes.margins(0.1)
            left.set(
                title=NAMES.get(model, model), xlabel="milliseconds a picture, one thread", ylabel="test accuracy (%)"
            )
            right.set(title=NAMES.get(model, model), xlabel="bits a weight, whole file")
        handles = {label: h for axes in grid[0] for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        columns = len(handles) if len(handles) < 6 else 3
        options = {"loc": "outside lower center", "ncols": columns, "frameon": False, "fontsize": "small"}
        drawing.legend([*handles.values()], [*handles], **options)
        drawing.suptitle("Accuracy against time and size: small runs, one seed", fontsize="medium")
    return drawing


def _line(axes: Any, rows: list[dict[str, Any]], x: str, **style: Any) -> None:
    if rows:
        axes.plot([row[x] for row in rows], [100 * row["test_acc"] for row in rows], **({"ms": 4} | style))


def _annotate(axes: Any, row: dict[str, Any], x: str) -> None:
    """The fraction pruned, beside its point."""
    place, words = (row[x], 100 * row["test_acc"]), f"P = {row['prune']:g}"
    axes.annotate(words, place, xytext=(4, 4), textcoords="offset points", fontsize="xx-small")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "draw"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--seconds", type=float, default=6.0, help="of measuring a network")
    options = parser.parse_args()
    if options.what == "measure":
        write(measure(options.source, seconds=options.seconds), options.target)
    else:
        save(draw(read(options.source)), options.target)
    print(f"wrote {options.target}")


if __name__ == "__main__":
    main()
