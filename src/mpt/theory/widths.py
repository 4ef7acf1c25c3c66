"""How wide a random network must be: by each theorem, by each construction, and for a search to find a ticket.

A row of the table is a source and the hidden neurons that it takes for one target, a trained network with one hidden
layer or more. ``promised`` is the widest random layer that a theorem asks for, for an output error of ``ERROR``;
``constructed`` the widest that is built, for a weight error of ``ACCURACY``; ``searched`` the narrowest hidden layer of
a random network in which the mean accuracy of the found tickets reaches the target's; ``trained`` the target itself.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mpt.files import write_atomically
from mpt.theory.bounds import THEOREMS, required
from mpt.theory.construct import build_ticket

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

ERROR, ACCURACY, DELTA = 0.01, 0.01, 0.05
COLUMNS = ("kind", "source", "width", "acc")
KINDS = ("trained", "searched", "constructed", "promised")


def searched(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows ``trained`` and ``searched`` of a sweep: its dense runs, and its tickets by their width.

    Args:
        runs: rows of ``mpt-results`` with ``variant test_acc model.hidden width``, hidden layers as text.

    Raises:
        ValueError: the sweep has no dense run or no ticket, or no width whose tickets are as accurate.
    """
    accs: dict[tuple[bool, int], list[float]] = {}
    for run in runs:
        sizes = [int(size) for size in re.findall(r"\d+", str(run.get("model.hidden")))]
        features = int(run["width"] * max(sizes, default=0))
        accs.setdefault((run["variant"] == "dense", features), []).append(run["test_acc"])
    means = {key: fmean(values) for key, values in accs.items()}
    dense = {width: acc for (is_dense, width), acc in means.items() if is_dense}
    tickets = {width: acc for (is_dense, width), acc in means.items() if not is_dense}
    if len(dense) != 1 or not tickets:
        raise ValueError("the runs must be one dense network and tickets of several widths: run sweeps=theory")
    ((width, target),) = dense.items()
    reached = [at for at in sorted(tickets) if tickets[at] >= target]
    if not reached:
        best = max(tickets, key=lambda at: tickets[at])
        raise ValueError(
            f"no width of the search reaches the trained network's accuracy of {target:.4f}: the best is "
            f"{tickets[best]:.4f} with {best}; search wider networks, or longer"
        )
    return [
        {"kind": "trained", "source": "dense", "width": width, "acc": target},
        {"kind": "searched", "source": "biprop", "width": reached[0], "acc": tickets[reached[0]]},
    ]


def asked(target: nn.Module, *, inputs: tuple[Tensor, Tensor], radius: float, seed: int = 0) -> list[dict[str, Any]]:
    """The rows ``constructed`` and ``promised`` of a target whose inputs lie between two images."""
    rows: list[dict[str, Any]] = []
    for form in ("real", "doubling", "binary"):
        made = build_ticket(target, accuracy=ACCURACY, form=form, delta=DELTA, seed=seed, inputs=inputs)
        widest = max(layer.shape[0] for layer in made.ticket.layers)
        rows.append({"kind": "constructed", "source": form, "width": widest, "acc": None})
    promised = required(target, error=ERROR, delta=DELTA, radius=radius, example=inputs[0][None])
    for key in THEOREMS:
        width = float(max(row.width for row in promised if row.theorem == key))
        rows.append({"kind": "promised", "source": key, "width": width, "acc": None})
    return rows


def write(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Write the table as CSV, widths to six digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        acc = "" if row["acc"] is None else f"{row['acc']:.6g}"
        writer.writerow({**row, "width": f"{row['width']:.6g}", "acc": acc})
    write_atomically(path, text.getvalue())


def is_table(path: str | Path) -> bool:
    """Whether the file at ``path`` begins like a table of :func:`write`."""
    with Path(path).open("rb") as file:
        return file.readline(100).decode(errors="replace").strip() == ",".join(COLUMNS)


def read(path: str | Path) -> list[dict[str, Any]]:
    """The table that :func:`write` wrote; ValueError if it is none."""
    rows = []
    try:
        with Path(path).open(newline="") as file:
            for row in csv.DictReader(file):
                if row["kind"] not in KINDS or not float(row["width"]) > 0:
                    raise ValueError("a kind or a width that is none")
                acc = float(row["acc"]) if row["acc"] else None
                rows.append({"kind": row["kind"], "source": row["source"], "width": float(row["width"]), "acc": acc})
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"table={path} is no table of mpt-theory figure: {error}; write one with csv=FILE") from error
    return rows


def draw(rows: Sequence[Mapping[str, Any]]) -> Drawing:
    """A bar for each source, its hidden neurons on a logarithmic axis."""
    from matplotlib.figure import Figure

    from mpt.analysis.drawing import deterministic

    names = {key: theorem.name for key, theorem in THEOREMS.items()}
    colors = dict(zip(KINDS, ("0.4", "C2", "C0", "C1"), strict=True))
    words = {
        "trained": "the trained network",
        "searched": "the narrowest in which a search is as accurate",
        "constructed": f"constructed, weight error {ACCURACY:g}",
        "promised": f"promised, output error {ERROR:g}",
    }
    ordered = sorted(rows, key=lambda row: (KINDS.index(row["kind"]), row["width"]))
    with deterministic():
        drawing = Figure(figsize=(7.2, 3.8), layout="constrained")
        axes = drawing.subplots()
        for at, row in enumerate(ordered):
            first = [other["kind"] for other in ordered].index(row["kind"]) == at
            label = words[row["kind"]] if first else None
            axes.barh(at, row["width"], color=colors[row["kind"]], label=label)
            shown = f"{row['width']:.2g}" if row["width"] >= 1e6 else f"{row['width']:,.0f}"
            axes.annotate(f" {shown}", (row["width"], at), va="center", fontsize="x-small")
        axes.set_yticks(range(len(ordered)), [names.get(row["source"], row["source"]) for row in ordered])
        axes.invert_yaxis()
        axes.set(xscale="log", xlabel="hidden neurons of the widest random layer")
        axes.margins(x=0.12)
        axes.legend(frameon=False, fontsize="small", loc="upper right")
        axes.set_title("How wide a random network must be", fontsize="medium")
    return drawing
