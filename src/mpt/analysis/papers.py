"""The numbers that the papers' text gives, each with its table, and ours beside them in Markdown.

``published.csv`` quotes the tables as they are printed, percent and millions; where two tables of one paper disagree
(IR-Net's ResNet-18: 11.2M in table 2, 4.6M in table 9; MPT-1/1 (75): 88.52 and 88.49), each row has its own table's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpt.analysis.aggregate import of_sweep, points, spelled
from mpt.analysis.table import is_setting

if TYPE_CHECKING:
    import pandas as pd

FILE = Path(__file__).with_name("published.csv")
MULTI_PRIZE, EFFICIENT = "Diffenderfer & Kailkhura 2021", "Cheng et al., Efficient MPT"

NETWORKS = {  # of a data set, as printed -> ours
    "cifar10": {
        **{f"ResNet-{depth}": f"cifar_resnet{depth}" for depth in (18, 20, 56)},
        "VGG-Small": "vgg_small",
    },
    "imagenet": {
        **{f"ResNet-{depth}": f"resnet{depth}" for depth in (18, 34, 50)},
        **{"WRN-50": "wide_resnet50_2", "WRN-34": "wide_resnet34", "AlexNet": "alexnet"},
    },
}


@dataclass(frozen=True)
class Table:
    """One table of the 2021 paper: what it compares, and the sweep whose runs belong there."""

    title: str
    binary_activations: bool
    sweep: str


TABLES = {
    "table1": Table("MPT-1/32 and trained binary-1/32 networks on CIFAR-10", False, "table1"),
    "table2": Table("MPT-1/1 and trained binary-1/1 networks on CIFAR-10", True, "table2"),
    "table3": Table("MPT-1/32 and trained binary-1/32 networks on ImageNet", False, "table3"),
    "table4": Table("MPT-1/1 and trained binary-1/1 networks on ImageNet", True, "table4"),
    "table8": Table("MPT-1/32 and trained binary (1/32) networks on CIFAR-10", False, "table1"),
    "table9": Table("MPT-1/1 and trained binary (1/1) networks on CIFAR-10", True, "table2"),
    "table10": Table("MPT-1/32 and trained binary (1/32) networks on ImageNet", False, "table3"),
    "table11": Table("MPT-1/1 and trained binary (1/1) networks on ImageNet", True, "table4"),
}


def published(tables: Sequence[str] = (), *, paper: str = MULTI_PRIZE) -> pd.DataFrame:
    """Rows of published.csv (of ``tables`` alone, as ``table 1``) in the columns of our own tables.

    ``test_acc`` and ``prune`` are in [0, 1]; ``num_kept`` from the printed millions; ``kind`` is ``MPT``, ``full
    precision`` or ``binary network``; ``model`` is our name of the ``network`` that is printed.
    """
    import pandas as pd

    rows = pd.read_csv(FILE, dtype={"top_1": str, "weights": str})
    rows = rows[rows["paper"] == paper]
    if tables:
        rows = rows[rows["table"].isin(tables)]
    kinds = {"Full-Precision": "full precision"}
    rows["kind"] = [kinds.get(m, "MPT" if m.startswith("MPT") else "binary network") for m in rows["method"]]
    rows["test_acc"] = rows["top_1"].astype(float) / 100
    rows["num_kept"] = rows["weights"].str.removesuffix("M").astype(float) * 1e6
    rows["model"] = [NETWORKS[data][network] for data, network in zip(rows["data"], rows["network"], strict=True)]
    return rows.reset_index(drop=True)


def markdown(names: Sequence[str], table: pd.DataFrame) -> str:
    """The tables ``names`` of the 2021 paper as Markdown: the printed rows, then those of ``table`` that belong there.

    A row of ours is a mean over seeds with lowest and highest, marked with data, budget (or epochs) and n.
    """
    return "\n".join(_one(name, table) for name in names)


def _one(name: str, table: pd.DataFrame) -> str:
    about, number = TABLES[name], f"table {name.removeprefix('table')}"
    quoted = published([number])
    rows: list[tuple[str, ...]] = [
        (r["method"], r["network"], r["top_1"], r["weights"], "published") for r in quoted.to_dict("records")
    ]
    rows += _ours(about, table)
    head = ("method", "network", "top-1 %", "weights", "source")
    lines = [f"**{number.capitalize()}** ({MULTI_PRIZE}): {about.title}", "", _cells(head), "|---|---|---:|---:|---|"]
    return "\n".join([*lines, *map(_cells, rows), ""])


def _ours(about: Table, table: pd.DataFrame) -> list[tuple[str, ...]]:
    table = of_sweep(table, about.sweep)
    bits = "MPT-1/1" if about.binary_activations else "MPT-1/32"
    table = table[table["variant"].isin([bits, f"{bits}+BN", "dense"])]
    if table.empty:
        return []
    settings = [c for c in table.columns if is_setting(c) and c not in ("seed", "sweep")]
    by = [*dict.fromkeys(["model", "variant", "prune", "num_kept", *settings])]
    found = points(table, by=by, y="test_acc").to_dict("records")
    found.sort(key=lambda row: row["variant"] != "dense")
    return [(_method(row), _network(row), _top_1(row), _millions(row["num_kept"]), _source(row)) for row in found]


def _method(row: dict[str, Any]) -> str:
    if row["variant"] == "dense":
        return "dense, learned weights"
    name, _, learned = row["variant"].partition("+")
    return f"{name} ({100 * row['prune']:g})" + (f"+{learned}" if learned else "")


def _network(row: dict[str, Any]) -> str:
    width = row.get("width", 1.0)
    return str(row["model"]) + (f", {width:g}x" if width != 1 else "")


def _top_1(row: dict[str, Any]) -> str:
    mean, low, high = (f"{100 * row[name]:.2f}" for name in ("mean", "lowest", "highest"))
    return mean if low == high else f"{mean} ({low} to {high})"


def _millions(number: float) -> str:
    return f"{number / 1e6:.1f}M" if number >= 1e6 else f"{number / 1e6:.2f}M" if number >= 1e5 else f"{number:,.0f}"


def _source(row: dict[str, Any]) -> str:
    words = [str(row["data"])] if "data" in row else []
    if isinstance(row.get("budget"), str):
        words.append(f"budget {row['budget']}")
    words += [f"{spelled(row['epochs'])} epochs"] if "epochs" in row else []
    return f"**ours**: {', '.join(words)}, n = {row['n']}"


def _cells(row: Sequence[str]) -> str:
    return f"| {' | '.join(row)} |"
