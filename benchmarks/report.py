"""The table of a measurement: on the terminal, in ``RESULTS.md``, and beside that of an earlier one.

python -m benchmarks.report results.json                       writes RESULTS.md beside it, BOUNDS.md in it
python -m benchmarks.report results.json --base earlier.json   prints both
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.goals import compared
from mpt.files import write_atomically

BUSY = 0.5  # load average before the first measurement above which numbers are those of a busy machine


def table(rows: list[dict[str, Any]]) -> str:
    """The rows under a head, columns aligned, numbers to the right."""
    head = [
        "measured in turn",
        "batch",
        "n",
        "first",
        "median",
        "second",
        "median",
        "third",
        "median",
        "median of ratios (quartiles)",
    ]
    return aligned([head, *(_cells(row) for row in rows)], "<>><><><><")


def aligned(lines: list[list[str]], sides: str) -> str:
    """Columns of one width each; ``sides`` says of each whether its cells are to the left or to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    spaced = [
        [f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)] for line in lines
    ]
    return "\n".join("  ".join(line).rstrip() for line in spaced)


def _cells(row: dict[str, Any]) -> list[str]:
    cells = [row["measured"], str(row["batch"] or ""), str(len(next(iter(row["values"].values()))))]
    for name, value in row["medians"].items():
        cells += [name, f"{value:,.{2 if value < 10 else 0}f} {row['unit']}"]
    cells += [""] * (9 - len(cells))
    ratios = [f"{name} {ratio:.3f}{_spread(row['quartiles'].get(name))}" for name, ratio in row["ratios"].items()]
    return [*cells, ", ".join(ratios)]


def _spread(quartiles: list[float] | None) -> str:
    return f" ({quartiles[0]:.2f}-{quartiles[1]:.2f})" if quartiles else ""


def heading(about: dict[str, Any]) -> str:
    """On what, with what and when."""
    cores = f"{about['cores']} cores, {about['threads']} threads, load average {about['load_average']} before"
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return f"{about['hardware']}, {cores}; {versions}; {about['date']}, medians of n rounds"


def profile_table(profile: list[dict[str, Any]]) -> str:
    """One step by operation: its own milliseconds, without what it calls, and their share of the step."""
    head = ["operation", "calls", "ms", "%"]
    lines = [[row["operation"], str(row["calls"]), f"{row['ms']:.2f}", f"{row['percent']:.1f}"] for row in profile]
    return aligned([head, *lines], "<>>>")


def results(stored: dict[str, Any], *, bounds: str = "") -> str:
    """``RESULTS.md``; ``bounds`` is what somebody wrote of what bounds the goals that were missed."""
    return "\n".join(
        [
            "# How fast mpt is",
            "",
            "`make bench`; what each row measures stands in `benchmarks/bench.py`. A ratio is the median of the ratios",
            "within the rounds, the first and third quartile of them behind it.",
            "",
            heading(stored),
            *(["", "The machine was busy before the first row was measured."] if stored["load_average"] > BUSY else []),
            "",
            "```",
            table(stored["rows"]),
            "```",
            "",
            "## Goals",
            "",
            "```",
            aligned([["what", "goal", "reached", ""], *compared(stored["rows"])], "<>><"),
            "```",
            "",
            bounds,
            f"## A {stored['profile']['step']} step, by operation",
            "",
            "```",
            profile_table(stored["profile"]["operations"]),
            "```",
            "",
        ]
    )


def comparison(base: dict[str, Any], now: dict[str, Any]) -> str:
    """Medians and ratios of the rows that both have, and the quotient of the medians."""
    rows = {row["measured"]: row for row in now["rows"]}
    lines = [["measured", "what", "base", "now", "now / base"]]
    for old in base["rows"]:
        new = rows.get(old["measured"])
        if new is None or old["unit"] != new["unit"] or old["batch"] != new["batch"]:
            continue
        for kind, unit in (("medians", f" {old['unit']}"), ("ratios", "")):
            for name, value in old[kind].items():
                if name in new[kind]:
                    pair = [f"{x:,.{3 if x < 10 else 0}f}{unit}" for x in (value, new[kind][name])]
                    lines.append([old["measured"], name, *pair, f"{new[kind][name] / value:.3f}"])
    return f"base: {heading(base)}\nnow:  {heading(now)}\n\n{aligned(lines, '<<>>>')}"


def read(path: Path) -> dict[str, Any]:
    """A file that ``make bench`` wrote; SystemExit with one sentence if it is not one."""
    try:
        stored = json.loads(path.read_text())
        if {"rows", "versions", "profile"} <= stored.keys():
            return dict(stored)
    except (OSError, ValueError, AttributeError) as error:
        raise SystemExit(f"{path} cannot be read as results of make bench: {error}") from None
    raise SystemExit(f"{path} is not a file of results of this version of make bench")


def main() -> None:
    """Write RESULTS.md, or print a comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description="Tables of make bench.")
    parser.add_argument("results", type=Path, help="file that make bench wrote")
    parser.add_argument("--base", type=Path, help="an earlier one, to compare with")
    chosen = parser.parse_args()
    now = read(chosen.results)
    if chosen.base:
        print(comparison(read(chosen.base), now))
        return
    if now["load_average"] > BUSY:
        print(f"the machine was busy (load average {now['load_average']}): measure again, alone", file=sys.stderr)
    target = chosen.results.with_name("RESULTS.md")
    bounds = target.with_name("BOUNDS.md")
    write_atomically(target, results(now, bounds=bounds.read_text() if bounds.exists() else ""))
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
