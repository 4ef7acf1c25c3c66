"""The numbers printed in the papers, each with its table, and Markdown tables that add ours.

``published.csv`` quotes the tables as printed, in percent and millions. If two tables of one paper disagree, each row
keeps the number of its own table: 11.2M and 4.6M for IR-Net's ResNet-18 (tables 2 and 9), 88.52 and 88.49 for MPT-1/1.
Its column ``basis`` says what a number is: one of a printed table, or of later work, of which we read not the paper but
the README of its code, or a page's summary. No figure draws the latter: the authors' networks, schedules and weights
differ from ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpt.analysis.aggregate import points, select_sweep, spell
from mpt.analysis.table import is_setting
from mpt.schema import printable

if TYPE_CHECKING:
    import pandas as pd

FILE = Path(__file__).with_name("published.csv")
MULTI_PRIZE, EFFICIENT = "Diffenderfer & Kailkhura 2021", "Cheng et al., Efficient MPT"

NETWORKS = {  # data set -> network as printed -> our name of the network
    "cifar10": {
        **{f"ResNet-{depth}": f"cifar_resnet{depth}" for depth in (18, 20, 32, 56)},
        **{f"Conv{depth}": f"conv{depth}" for depth in (2, 4, 6, 8)},
        "VGG-Small": "vgg_small",
    },
    "cifar100": {f"ResNet-{depth}": f"cifar_resnet{depth}" for depth in (32, 56, 110)},
    "mnist": {"FCN 300-100": "mlp"},
    "imagenet": {
        **{f"ResNet-{depth}": f"resnet{depth}" for depth in (18, 34, 50)},
        **{"WRN-50": "wide_resnet50_2", "WRN-34": "wide_resnet34", "AlexNet": "alexnet"},
    },
}


@dataclass(frozen=True)
class Table:
    """One table of the 2021 paper, and the sweep whose runs belong there."""

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


def table_names(name: str) -> tuple[str, ...]:
    """``table1`` -> (``table1``,); ``table8-11`` -> all four; a name of another form -> ()."""
    first, dash, last = name.removeprefix("table").partition("-")
    if not name.startswith("table") or not first.isdecimal() or (dash and not last.isdecimal()):
        return ()
    end = min(int(last or first), int(first) + len(TABLES))
    numbers = [f"table{number}" for number in range(int(first), end + 1)]
    missing = [table for table in numbers if table not in TABLES]
    if missing or not numbers:
        raise ValueError(f"there is no table {name!r}: take one of {', '.join(TABLES)}, or several as table8-11")
    return tuple(numbers)


def published(tables: Sequence[str] = (), *, paper: str = MULTI_PRIZE) -> pd.DataFrame:
    """Rows of published.csv in the columns of our own tables, optionally only of ``tables`` such as ``table 1``.

    ``test_acc`` and ``prune`` are in [0, 1]; ``num_kept`` comes from the printed millions. ``kind`` is ``MPT``, ``full
    precision`` or ``binary network``. ``model`` is our name of the printed ``network``, or None if we have none.
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
    rows["model"] = [NETWORKS[data].get(network) for data, network in zip(rows["data"], rows["network"], strict=True)]
    return rows.reset_index(drop=True)


def markdown(names: Sequence[str], table: pd.DataFrame) -> str:
    """Render the tables ``names`` of the 2021 paper as Markdown: the printed rows, then matching rows of ``table``.

    Each of our rows is a mean over seeds with lowest and highest, and names data, budget, epochs and n.
    """
    return "\n".join(_render_table(name, table) for name in names)


def _render_table(name: str, table: pd.DataFrame) -> str:
    about, number = TABLES[name], f"table {name.removeprefix('table')}"
    quoted = published([number])
    rows: list[tuple[str, ...]] = [
        (r["method"], r["network"], r["top_1"], r["weights"], "published") for r in quoted.to_dict("records")
    ]
    rows += _our_rows(about, table)
    title = f"**{number.capitalize()}** ({MULTI_PRIZE}): {about.title}"
    head = _markdown_row(("method", "network", "top-1 %", "weights", "source"))
    return "\n".join([title, "", head, "|---|---|---:|---:|---|", *map(_markdown_row, rows), ""])


def _our_rows(about: Table, table: pd.DataFrame) -> list[tuple[str, ...]]:
    table = select_sweep(table, about.sweep)
    bits = "MPT-1/1" if about.binary_activations else "MPT-1/32"
    table = table[table["variant"].isin([bits, f"{bits}+BN", "dense"])]
    if table.empty:
        return []
    settings = [c for c in table.columns if is_setting(c) and c not in ("seed", "sweep")]
    by = [*dict.fromkeys(["model", "variant", "prune", "num_kept", *settings])]
    rows = points(table, by=by, y="test_acc").to_dict("records")
    rows.sort(key=lambda row: row["variant"] != "dense")
    return [(_method(row), _network(row), _top_1(row), _millions(row["num_kept"]), _source(row)) for row in rows]


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
    words += [f"{spell(row['epochs'])} epochs"] if "epochs" in row else []
    return f"**ours**: {', '.join(words)}, n = {row['n']}"


def _markdown_row(row: Sequence[str]) -> str:
    cells = [printable(cell, 200).replace("|", r"\|") for cell in row]
    return f"| {' | '.join(cells)} |"
