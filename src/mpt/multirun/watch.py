"""Watches the runs of a sweep: a line for each one that ends, the time left, and on a terminal the runs at work.

It reads the directories of the runs, so it also counts what other commands, workers and jobs of the same sweep do.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from mpt.multirun.expand import Run
from mpt.phases import drawn_above
from mpt.run.claim import is_claimed
from mpt.run.result import FILE, METRICS_FILE
from mpt.run.status import result
from mpt.words import count, duration

_SECONDS = 1.0  # between two looks
_ROWS = 12  # runs in the table


class Watch:
    """Prints ``3 of 27  97.21 %  NAME  41 seconds, 16 minutes left`` when a run ends; a context manager.

    Args:
        runs: of the sweep, done ones included.
        started: the file system's time before which a failure does not count.
        works: work of each run, in any unit, for the time left.
    """

    def __init__(self, runs: Sequence[Run], *, started: float, works: Sequence[float]) -> None:
        self.runs, self.started = runs, started
        self.work = {run.directory: work for run, work in zip(runs, works, strict=True)}
        self.ended: dict[Path, str] = {}  # run -> done or failed
        self.seen: dict[Path, int] = {}  # run -> when the result that was read last was written
        self.epochs: dict[Path, dict[str, Any]] = {}  # run at work -> its last row of metrics
        self.since: dict[Path, float] = {}  # run at work -> when it was first seen
        self.begin, self.before = 0.0, 0.0  # when the watch began, and the part of the work that was done then
        self.over, self.lock, self.stack = threading.Event(), threading.Lock(), ExitStack()
        self.thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._read()
        self.begin, self.before = time.monotonic(), self._part_done()
        self.stack.enter_context(drawn_above(self.table))
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        self.stack.close()
        self.thread.join()
        self.look()

    def look(self) -> None:
        """Read the directories, and print a line for each run that has ended since the last look."""
        with self.lock:
            new = self._read()
            for number, (directory, content) in enumerate(new, len(self.ended) - len(new) + 1):
                print(self._line(number, directory, content), flush=True)

    def left(self) -> str:
        """``16 minutes left``; empty while nothing is known."""
        done, passed = self._part_done(), time.monotonic() - self.begin
        gained = done - self.before
        seconds = passed * (1 - done) / gained if gained > 0 else 0.0
        return f"{duration(seconds)} left" if seconds >= 1 else ""

    def table(self) -> Any:
        """For rich: the runs at work, with their epochs and accuracies, below how many have ended."""
        from rich.console import Group
        from rich.table import Table

        failed, running = list(self.ended.values()).count("failed"), list(self.since)
        words = [f"{len(self.ended)} of {count(len(self.runs), 'run')} ended", f"{len(running)} at work"]
        words += [f"{failed} failed"] if failed else []
        table = Table.grid(padding=(0, 2))
        for directory in running[:_ROWS]:
            row, epochs = self.epochs.get(directory, {}), self._epochs(directory)
            acc = next((f"{100 * row[key]:.2f} %" for key in ("val/acc", "test/acc") if key in row), "")
            passed = duration(time.monotonic() - self.since.get(directory, self.begin))
            at = min(row.get("epoch", 0) + 1, epochs)  # its accuracy is that of the epoch before
            table.add_row(directory.name, f"epoch {at} of {epochs}", acc, passed)
        return Group(", ".join(filter(None, [*words, self.left()])), table)

    def _watch(self) -> None:
        while not self.over.wait(_SECONDS):
            with suppress(OSError):
                self.look()

    def _read(self) -> list[tuple[Path, dict[str, Any]]]:
        """The runs that ended since the last time, with their results; notes how far the others are."""
        new = []
        for directory in (run.directory for run in self.runs if run.directory not in self.ended):
            content = self._new_result(directory)
            if state := self._end(directory, content):
                self.ended[directory] = state
                self.since.pop(directory, None)
                new.append((directory, content))
            elif is_claimed(directory):
                self.since.setdefault(directory, time.monotonic())
                self._read_metrics(directory)
            else:
                self.since.pop(directory, None)
        return new

    def _new_result(self, directory: Path) -> dict[str, Any]:
        """The run's result if it was written since it was read last, else an empty one."""
        try:
            written = (directory / FILE).stat().st_mtime_ns
        except OSError:
            return {}
        if self.seen.get(directory) == written:
            return {}
        self.seen[directory] = written
        return result(directory)

    def _end(self, directory: Path, content: dict[str, Any]) -> str:
        if content.get("status") == "done":
            return "done"
        failed = content.get("status") == "failed" and self.seen[directory] / 1e9 > self.started
        return "failed" if failed else ""

    def _read_metrics(self, directory: Path) -> None:
        with suppress(OSError, ValueError, IndexError):
            last = json.loads((directory / METRICS_FILE).read_text().splitlines()[-1])
            self.epochs[directory] = last if isinstance(last.get("epoch"), int) else {}

    def _epochs(self, directory: Path) -> int:
        return next(run.settings.epochs for run in self.runs if run.directory == directory)

    def _part_done(self) -> float:
        """Part of the work that is done, in [0, 1]."""
        done = sum(self.work[directory] for directory in self.ended)
        for directory in list(self.since):
            done += self.work[directory] * self.epochs.get(directory, {}).get("epoch", 0) / self._epochs(directory)
        return done / (sum(self.work.values()) or 1.0)

    def _line(self, number: int, directory: Path, content: dict[str, Any]) -> str:
        total = len(self.runs)
        words = [f"{number:>{len(str(total))}} of {total}"]
        if self.ended[directory] == "failed":
            words += [" failed ", directory.name]
        else:
            words += [f"{100 * content['test_acc']:6.2f} %", directory.name, duration(content["seconds"])]
        left = self.left() if number < total else ""
        return "  ".join(words) + (f", {left}" if left else "")
