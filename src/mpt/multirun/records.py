"""Loggers at the end of a sweep: its finished runs that they lack, and one record of the sweep as a whole."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpt.files import digest
from mpt.multirun.expand import Run
from mpt.phases import say
from mpt.processes import is_first
from mpt.run.claim import hold_claim
from mpt.run.status import State, reason, result, states

if TYPE_CHECKING:
    from mpt.experiment.trackers import Tracker


def record_sweep(folder: Path, runs: Sequence[Run]) -> None:
    """Log, in the first process, the finished ``runs`` that were not logged yet, then the sweep in ``folder``."""
    if not runs or not is_first() or not (runs[0].settings.logger.wandb or runs[0].settings.logger.tensorboard):
        return
    say("recording the sweep")
    from mpt.experiment.records import replay  # brings torch

    try:
        for run in runs:
            found = result(run.directory)
            if found.get("status") == "done":
                replay(run.settings, run.directory, found)
        if words := _record(folder, runs):
            print(words, flush=True)
    except (OSError, ValueError) as error:  # the runs are there all the same
        print(f"note      the sweep could not be recorded: {reason(error)}", flush=True)


def _record(folder: Path, runs: Sequence[Run]) -> str:
    """Log the sweep, with all runs in ``folder``, to the loggers that lack it; return lines to print."""
    from mpt.experiment.loggers import asked_for, open_loggers
    from mpt.experiment.records import describe, is_recorded, note_recorded

    settings = runs[0].settings
    found = states(folder)
    content = digest(json.dumps([(s.directory.name, s.state, s.content.get("checksum")) for s in found]).encode())
    wanted = asked_for(settings.logger)
    missing = [kind for kind in wanted if not is_recorded(kind, folder, settings.logger, content)]
    if missing:
        config = {"sweep": settings.sweep, "budget": settings.budget}
        with hold_claim(folder, name=".recording", patience=60):
            with open_loggers(folder, settings, kinds=missing, job="sweep", config=config) as loggers:
                _log(loggers, folder, found)
            note_recorded(missing, folder, settings.logger, content)
    words = {kind: "recorded" if kind in missing else "recorded before:" for kind in wanted}
    return "\n".join(f"{words[kind]} {describe(kind, folder, settings.logger)}" for kind in wanted)


def _log(loggers: Sequence[Tracker], folder: Path, found: Sequence[State]) -> None:
    from mpt.pages.sweep import runs_table, sweep_figure

    head, rows = runs_table(found)
    pixels = sweep_figure(folder)
    place = head.index("test_acc")
    best = max((row for row in rows if row[place] is not None), key=lambda row: row[place], default=None)
    summary: dict[str, Any] = {"runs": len(rows), **Counter(state.state for state in found)}
    summary |= {} if best is None else {"best_test_acc": best[place], "best_run": best[0]}
    for logger in loggers:
        logger.log_rows("sweep/runs", head, rows, step=0)
        if pixels is not None:
            logger.log_picture("sweep/figure", pixels, step=0)
        logger.log_result(summary, config={}, step=0)
