"""Draw docs/figure.svg from docs/demo.csv: accuracy of tickets in Conv4 on digits over the fraction pruned.

``python docs/figure.py`` draws; ``python docs/figure.py RUNS`` first reads the results below RUNS into docs/demo.csv.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

TABLE = Path(__file__).with_name("demo.csv")
COLUMNS = ("method", "prune", "seed", "test_acc", "ticket_bytes", "seconds")


def collect(runs: Path) -> None:
    """One row a finished run."""
    rows = [json.loads(path.read_text()) for path in runs.glob("*/result.json")]
    rows = [{key: row[key] for key in COLUMNS} for row in rows if row["status"] == "done"]
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: (row["method"], row["prune"], row["seed"])))


def draw() -> None:
    """Mean over seeds with bars from lowest to highest; the dense baseline as a line."""
    accs: dict[tuple[str, float], list[float]] = defaultdict(list)
    with TABLE.open() as file:
        for row in csv.DictReader(file):
            accs[row["method"], 100 * float(row["prune"])].append(100 * float(row["test_acc"]))
    mpl.rcParams["svg.hashsalt"] = "mpt"
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    tickets = sorted((prune, values) for (method, prune), values in accs.items() if method == "biprop")
    prunes, means = [p for p, _ in tickets], [sum(v) / len(v) for _, v in tickets]
    spread = [
        [m - min(v) for m, (_, v) in zip(means, tickets, strict=True)],
        [max(v) - m for m, (_, v) in zip(means, tickets, strict=True)],
    ]
    axes.errorbar(
        prunes, means, yerr=spread, marker="o", capsize=3, label="ticket: random weights, 1 bit each (biprop)"
    )
    dense = accs["dense", 0.0]
    axes.axhline(sum(dense) / len(dense), linestyle="--", color="0.4", label="dense: trained weights, 32 bits each")
    axes.set(
        xlabel="weights pruned (%)", ylabel="test accuracy (%)", title=f"Conv4 on digits, mean of {len(dense)} seeds"
    )
    axes.legend(loc="lower left", frameon=False)
    figure.savefig(Path(__file__).with_name("figure.svg"), metadata={"Date": None})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        collect(Path(sys.argv[1]))
    draw()
