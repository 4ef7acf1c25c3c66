"""The figure of the theorems: random neurons that one weight takes, promised and needed, over the accuracy.

A row of the table is a theorem at an accuracy, for a weight of magnitude 1 (1/2 for the subset sum, whose products
reach 1), inputs of any sign and delta = .05. ``promised`` is what the theorem asks for, ``needed`` what its
construction takes with exact probabilities, or for the subset sum in 95 % of 400 seeded draws.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpt.files import write_atomically
from mpt.theory.theorems import THEOREMS

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

ACCURACIES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
DELTA = 0.05
COLUMNS = ("theorem", "accuracy", "delta", "promised", "needed")


def promised() -> list[dict[str, Any]]:
    """The rows of the table, all theorems at all accuracies."""
    return [
        {
            "theorem": key,
            "accuracy": accuracy,
            "delta": DELTA,
            "promised": theorem.neurons(accuracy, DELTA),
            "needed": theorem.needed(accuracy, DELTA),
        }
        for key, theorem in THEOREMS.items()
        for accuracy in ACCURACIES
    ]


def write(rows: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Write the table as CSV; a theorem without a needed number has an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if row[key] is None else row[key] for key in COLUMNS} for row in rows)
    write_atomically(path, text.getvalue())


def read(path: str | Path) -> list[dict[str, Any]]:
    """The table that :func:`write` wrote.

    Raises:
        ValueError: the file is not such a table.
    """
    rows = []
    try:
        with Path(path).open(newline="") as file:
            for row in csv.DictReader(file):
                if row["theorem"] not in THEOREMS:
                    raise ValueError(f"unknown theorem {row['theorem']!r:.60}")
                numbers = {key: int(row[key]) if row[key] else None for key in ("promised", "needed")}
                shares = {key: float(row[key]) for key in ("accuracy", "delta")}
                if numbers["promised"] is None or not all(0 < value < 1 for value in shares.values()):
                    raise ValueError("a number is missing or out of its range")
                rows.append({"theorem": row["theorem"], **shares, **numbers})
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(f"table={path} is no table of mpt-theory figure: {error}; write one with csv=FILE") from error
    if not rows:
        raise ValueError(f"table={path} is no table of mpt-theory figure: it has no rows; write one with csv=FILE")
    return rows


def draw(rows: Sequence[dict[str, Any]]) -> Drawing:
    """Random neurons over the accuracy, both logarithmic: solid what is promised, dashed what is needed."""
    from matplotlib.figure import Figure

    from mpt.analysis.drawing import deterministic

    with deterministic():
        drawing = Figure(figsize=(6.4, 4.4), layout="constrained")
        axes = drawing.subplots()
        for at, (key, theorem) in enumerate(THEOREMS.items()):
            own = sorted((row for row in rows if row["theorem"] == key), key=lambda row: -row["accuracy"])
            for column, style in (("promised", "-"), ("needed", "--")):
                points = [(row["accuracy"], row[column]) for row in own if row[column] is not None]
                if points:
                    label = theorem.name if column == "promised" else None
                    axes.plot(*zip(*points, strict=True), style, color=f"C{at}", marker="o", ms=3, label=label)
        axes.plot([], [], "-", color="0.4", label="promised")
        axes.plot([], [], "--", color="0.4", label="needed: exact, or measured")
        axes.set(xscale="log", yscale="log", xlabel="accuracy of a weight", ylabel="random neurons of a weight")
        axes.invert_xaxis()
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize="small")
        axes.set_title("What the theorems promise for one weight", fontsize="medium")
    return drawing
