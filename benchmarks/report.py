"""Render the table of a benchmark: on the terminal, in ``RESULTS.md``, and compared with an earlier benchmark.

python -m benchmarks.report results.json                       writes RESULTS.md, with BOUNDS.md, in its folder
python -m benchmarks.report results.json --base earlier.json   prints a comparison
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.goals import compare
from mpt.files import write_atomically

ORDINALS = ("first", "second", "third", "fourth")  # of the alternatives of a row
BUSY = 0.5  # the machine counts as busy if the load average before the first measurement is higher


def table(rows: list[dict[str, Any]]) -> str:
    """Render the rows below a head, with aligned columns and numbers to the right."""
    count = max(len(row["medians"]) for row in rows)
    medians = [cell for ordinal in ORDINALS[:count] for cell in (ordinal, "median")]
    head = ["measured in turn", "batch", "n", *medians, "median of ratios (quartiles)"]
    return align([head, *(_cells(row, count) for row in rows)], "<>>" + "<>" * count + "<")


def align(lines: list[list[str]], sides: str) -> str:
    """Pad every column to one width; ``sides`` has ``<`` or ``>`` for each column, to align it left or right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    spaced = [
        [f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)] for line in lines
    ]
    return "\n".join("  ".join(line).rstrip() for line in spaced)


def _cells(row: dict[str, Any], count: int) -> list[str]:
    cells = [row["measured"], str(row["batch"] or ""), str(len(next(iter(row["values"].values()))))]
    for name, value in row["medians"].items():
        cells += [name, f"{value:,.{2 if value < 10 else 0}f} {row['unit']}"]
    cells += [""] * (3 + 2 * count - len(cells))
    ratios = [f"{name} {ratio:.3f}{_spread(row['quartiles'].get(name))}" for name, ratio in row["ratios"].items()]
    return [*cells, ", ".join(ratios)]


def _spread(quartiles: list[float] | None) -> str:
    return f" ({quartiles[0]:.2f}-{quartiles[1]:.2f})" if quartiles else ""


def heading(about: dict[str, Any]) -> str:
    """Hardware, versions and date of a benchmark."""
    cores = f"{about['cores']} cores, {about['threads']} threads, load average {about['load_average']} before"
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return f"{about['hardware']}, {cores}; {versions}; {about['date']}, medians of n rounds"


def profile_table(profile: list[dict[str, Any]]) -> str:
    """Render one step by operation: its own milliseconds, without operations it calls, and their share of the step."""
    head = ["operation", "calls", "ms", "%"]
    lines = [[row["operation"], str(row["calls"]), f"{row['ms']:.2f}", f"{row['percent']:.1f}"] for row in profile]
    return align([head, *lines], "<>>>")


def results(stored: dict[str, Any], *, bounds: str = "") -> str:
    """Render ``RESULTS.md``; ``bounds`` is a hand-written explanation of the missed goals."""
    return "\n".join(
        [
            "# How fast mpt is",
            "",
            "`make bench`; `benchmarks/bench.py` explains each row. A ratio is the median of the ratios within the",
            "rounds, followed by their first and third quartile.",
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
            align([["what", "goal", "reached", ""], *compare(stored["rows"])], "<>><"),
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
    """Render medians and ratios of the rows that both benchmarks have, and their quotients."""
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
    return f"base: {heading(base)}\nnow:  {heading(now)}\n\n{align(lines, '<<>>>')}"


def read(path: Path) -> dict[str, Any]:
    """Read a file that ``make bench`` wrote; SystemExit with one sentence for any other file."""
    try:
        stored = json.loads(path.read_text())
        if {"rows", "versions", "profile"} <= stored.keys():
            return dict(stored)
    except (OSError, ValueError, AttributeError) as error:
        raise SystemExit(f"{path} cannot be read as results of make bench: {error}") from None
    raise SystemExit(f"{path} holds no results of this version of make bench")


def main() -> None:
    """Write RESULTS.md, or print a comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description="Tables of make bench.")
    parser.add_argument("results", type=Path, help="file that make bench wrote")
    parser.add_argument("--base", type=Path, help="an earlier file, to compare with")
    options = parser.parse_args()
    now = read(options.results)
    if options.base:
        print(comparison(read(options.base), now))
        return
    if now["load_average"] > BUSY:
        print(f"the machine was busy (load average {now['load_average']}): measure again, alone", file=sys.stderr)
    target = options.results.with_name("RESULTS.md")
    bounds = target.with_name("BOUNDS.md")
    write_atomically(target, results(now, bounds=bounds.read_text() if bounds.exists() else ""))
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
