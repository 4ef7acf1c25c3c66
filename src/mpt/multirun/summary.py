"""What a sweep prints before its runs and after them: how many are done, and a table of their accuracies."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from mpt.multirun.expand import Run
from mpt.run import status
from mpt.schema import printable
from mpt.words import duration

_SEED = "seed"  # the one axis over which the table averages


def announce(master: DictConfig, folder: Path, runs: Sequence[Run], changes: dict[str, str]) -> str:
    """How many ``runs`` there are in ``folder`` and in which states, and the ``changes`` by ``budget=mini``."""
    counts = dict.fromkeys(status.STATES, 0)
    for run in runs:
        counts[status.state(run.directory).state] += 1
    name = f"{master.sweep} ({master.budget or 'paper'})" if master.sweep else "sweep"
    lines = [
        f"{name}: {status.count_runs(len(runs))} in {folder}: {counts['done']} done, {counts['running']} running, "
        f"{counts['interrupted']} interrupted, {counts['failed']} failed"
        f"{' (to be tried again)' if counts['failed'] else ''}, {counts['missing']} missing"
    ]
    if changes:
        lines += ["mini is not the published experiment; it changes:", *(f"  {k}: {v}" for k, v in changes.items())]
    return "\n".join(lines)


def count_done(runs: Sequence[Run]) -> str:
    """``3 of 27 runs done``."""
    done = sum(status.state(run.directory).state == "done" for run in runs)
    return f"{done} of {status.count_runs(len(runs))} done"


def conclude(runs: Sequence[Run], refusals: dict[Path, str], folder: Path) -> None:
    """Print the table of ``runs`` and how many are done.

    Raises:
        SystemExit: some have failed; their reasons, those of ``refusals`` first, are printed on stderr.
    """
    failed = [run for run in runs if run.directory in refusals or status.state(run.directory).state != "done"]
    print(f"\n{table([run for run in runs if run not in failed])}", flush=True)
    print(f"{len(runs) - len(failed)} of {status.count_runs(len(runs))} in {folder} done", flush=True)
    if failed:
        print(f"mpt-train: {status.count_runs(len(failed))} failed:", file=sys.stderr)
        print("\n".join(_reasons([run.directory for run in failed], refusals)), file=sys.stderr, flush=True)
        sys.exit(1)


def _reasons(failed: Sequence[Path], refusals: dict[Path, str]) -> list[str]:
    """A line for each run that has a reason of its own; a reason of several once, above their names."""
    groups: dict[str, list[Path]] = {}
    for directory in failed:
        reason = refusals.get(directory) or status.result(directory).get("error", "missing")
        groups.setdefault(printable(reason, 500), []).append(directory)
    lines = []
    for reason, members in groups.items():
        if len(members) == 1:
            lines += [f"  {members[0]}: {reason}"]
        else:
            lines += [f"  {status.count_runs(len(members))}: {reason}", *(f"    {member}" for member in members)]
    return lines


def table(runs: Sequence[Run]) -> str:
    """A line for each setting of the finished ``runs``: its values, n seeds, mean, lowest and highest accuracy, time.

    The columns are the axes that have several values; of a run that an axis does not name, its result has the value.
    Empty without runs.
    """
    options = [dict(override.split("=", 1) for override in run.overrides if "=" in override) for run in runs]
    keys = [key for key in dict.fromkeys(key for each in options for key in each) if key != _SEED]
    axes = [key for key in keys if len({each.get(key) for each in options}) > 1]
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run, each in zip(runs, options, strict=True):
        groups.setdefault(tuple(_spell(key, each.get(key) or _value(run, key)) for key in axes), []).append(run)
    rows = [(*axes, "n", "accuracy %", "lowest", "highest", "time of a run")]
    for values, members in groups.items():
        results = [status.result(run.directory) for run in members]
        accs = [100 * result["test_acc"] for result in results if "test_acc" in result]
        if accs:
            seconds = sum(result["seconds"] for result in results if "test_acc" in result) / len(accs)
            numbers = (sum(accs) / len(accs), min(accs), max(accs))
            rows.append((*values, str(len(accs)), *(f"{acc:.2f}" for acc in numbers), duration(seconds)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            f"{cell:<{width}}" if place < len(axes) else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n" if len(rows) > 1 else ""


def _value(run: Run, key: str) -> str:
    value = status.result(run.directory).get(key, "")
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else ""


def _spell(key: str, value: str) -> str:
    """The value of an axis, without what escapes it for Hydra; a ticket file is called by its run."""
    value = Path(value.strip("'")).parent.name if key == "ticket" else re.sub(r"\\([\\()\[\]{}:=, \t])", r"\1", value)
    return printable(value, 60)
