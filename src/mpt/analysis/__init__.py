"""Many runs: result files to one table, the table to figures, Markdown and verdicts. No torch: notebooks open at once.

    from mpt import analysis
    table = analysis.load("runs/fig2")          # or a .csv or .parquet file of mpt-results
    analysis.summary(table)                     # mean, lowest, highest over seeds, with n
    analysis.plot("runs/fig2", figure="fig2")   # or x=, y=, hue=, panel=

pandas and matplotlib come with ``pip install 'multiprize[analysis]'`` and are imported when they are first needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpt.analysis.aggregate import points, select, summary
    from mpt.analysis.details import load_epochs, load_rows
    from mpt.analysis.figures import FIGURES, Figure
    from mpt.analysis.papers import markdown, published
    from mpt.analysis.plotting import plot, save
    from mpt.analysis.table import load, read_runs, write_table
    from mpt.analysis.verdicts import judge

_HOMES = {  # no module has the name of a function in it: importing the module would hide the function
    "aggregate": ("points", "select", "summary"),
    "details": ("load_epochs", "load_rows"),
    "figures": ("FIGURES", "Figure"),
    "papers": ("markdown", "published"),
    "plotting": ("plot", "save"),
    "table": ("load", "read_runs", "write_table"),
    "verdicts": ("judge",),
}

__all__ = [
    "FIGURES",
    "Figure",
    "judge",
    "load",
    "load_epochs",
    "load_rows",
    "markdown",
    "plot",
    "points",
    "published",
    "read_runs",
    "save",
    "select",
    "summary",
    "write_table",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"mpt.analysis.{home}"), name)
    raise AttributeError(f"module 'mpt.analysis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
