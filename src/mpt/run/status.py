"""The state of runs, read from their directories: done, running, interrupted, failed or missing."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mpt.errors import is_mendable, sentence
from mpt.files import checksum, write_atomically
from mpt.processes import slurm_job
from mpt.run.claim import NAME, is_claimed
from mpt.run.config import FILE as CONFIG
from mpt.run.config import read_config
from mpt.run.name import identity
from mpt.run.progress import CHECKPOINT, finished_epochs
from mpt.run.queue import queued_runs
from mpt.run.result import FILE, METRICS_FILE, is_complete, read_result, write_result
from mpt.run.settings import Settings, plain
from mpt.schema import is_text, printable, read_object
from mpt.signals import INTERRUPTED, Interrupted
from mpt.words import count

STATES = ("done", "running", "queued", "interrupted", "failed", "missing")
TRIES = "tries.json"  # of a run: how often a job was stopped before it had finished an epoch
LIST = "sweep.json"  # in the folder of a sweep: every run that any of its commands asked for
TICKET = "ticket.safetensors"
_WRITTEN = (METRICS_FILE, TICKET, "ticket.json", "report.json", "best.ckpt", NAME)  # by a run, when and as it ends
_NO_RUNS = ("wandb", "tensorboard", "multirun", "submitit")  # folders in or next to a run that hold no run
_ERROR = 10_000  # characters of a process's error that are read


@dataclass(frozen=True)
class State:
    """The state of one run, one of ``STATES``; why it failed, or how far it came; and what ``result.json`` holds."""

    directory: Path
    state: str
    text: str = ""
    content: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


def finished_result(settings: Settings, directory: Path) -> dict[str, Any] | None:
    """The result of this run if it is finished in ``directory``, else None.

    Raises:
        ValueError: ``directory`` holds another run, or a damaged ``config.yaml``.
    """
    try:
        config = read_config(directory)
    except FileNotFoundError:
        if leftovers := [name for name in (CHECKPOINT, TICKET) if (directory / name).exists()]:
            raise ValueError(
                f"{directory} holds {leftovers[0]} of an unknown run, without its config.yaml: choose another directory"
            ) from None
        return None
    before, now = identity(config), identity(plain(settings))
    different = [key for key in sorted(before | now) if before.get(key) != now.get(key)]
    started = any((directory / name).exists() for name in (CHECKPOINT, TICKET))
    if not started or "data_checksum" not in now:  # nothing was learned from other pictures, or they are gone
        different = [key for key in different if key != "data_checksum"]
    if different == ["data_checksum"]:
        raise ValueError(
            f"data.root now holds different pictures from those used by the run in {directory}: "
            "choose another directory"
        )
    if different:
        changes = ", ".join(f"{key} is {before.get(key)} there and {now.get(key)} here" for key in different[:5])
        raise ValueError(f"{directory} holds a run with other settings ({changes}): choose another directory")
    content, damage = examine(directory)
    measured = (directory / TICKET).is_file()
    if measured and damage and not (directory / CHECKPOINT).is_file():
        raise ValueError(f"{directory}: {damage}, and there is no {CHECKPOINT}: remove the directory to run it again")
    if measured and content.get("status") == "done" and not damage:
        return content
    for path in (directory / name for name in _WRITTEN):
        if path.exists() and not path.is_file():  # a pipe would stop the run, and a folder end it when it is trained
            raise ValueError(f"{path} is not a regular file: remove it, because the run writes one there")
    return None


def result(directory: Path) -> dict[str, Any]:
    """The content of ``result.json``; empty if it is absent or damaged."""
    with suppress(OSError, ValueError):
        return read_result(directory)
    return {}


def examine(directory: Path) -> tuple[dict[str, Any], str]:
    """The content of ``result.json``, and what is damaged of a finished run, as a clause; both empty if absent.

    Raises:
        OSError: a file cannot be read.
    """
    try:
        content = read_result(directory)
    except FileNotFoundError:
        return {}, ""
    except ValueError as error:
        return {}, f"{FILE} {error}"
    path = directory / TICKET
    if content["status"] != "done" or not path.is_file():
        return content, ""
    if not is_complete(content):
        return content, f"{FILE} lacks numbers of a finished run"
    expected = content["ticket_bytes"], content.get("ticket_checksum")
    if expected != (path.stat().st_size, checksum(path) if expected[1] else None):
        return content, f"{TICKET} is not the file that {FILE} describes"
    return content, ""


def record_failure(directory: Path, settings: Settings, error: BaseException | str) -> None:
    """Write a ``result.json`` with ``status: failed`` and the reason, or with ``status: interrupted``.

    If one of several processes failed, its reason is recorded, not that of a process that lost its connection to it.
    """
    other = failure_of_a_rank(directory)
    if other and not isinstance(error, Interrupted) and not (isinstance(error, str) and isinstance(other, Interrupted)):
        error = other
    status = INTERRUPTED if isinstance(error, Interrupted) else "failed"
    text = error if isinstance(error, str) else reason(error)
    content = {"status": status, "error": text, "config": plain(settings)}
    try:
        write_result(directory, content)
    except OSError as full:
        print(f"the failure could not be recorded in {directory}: {full}", file=sys.stderr)


def _read_reason(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(_ERROR)


def reason(error: BaseException) -> str:
    """The words that record why a run ended without a result."""
    return sentence(error) if is_mendable(error) or isinstance(error, Interrupted) else repr(error)


def describe_interruption(directory: Path, epochs: int) -> str:
    """What follows "interrupted" in the last sentence of a run of ``epochs``."""
    if done := finished_epochs(directory):
        return f" after epoch {done} of {epochs}: the same command continues"
    return f" before the end of epoch 1 of {epochs}: the same command starts the run again"


def name_limit(directory: Path, signum: int) -> str:
    """Why a run does not get on, if ``signum`` is the second in a row that stopped it before an epoch had ended.

    Empty for other signals than those by which SLURM announces a time limit, and for other jobs than the last one.
    """
    job, done = slurm_job(), finished_epochs(directory)
    if job is None or signum not in (signal.SIGUSR1, signal.SIGUSR2):
        return ""
    last = read_object(directory / TRIES)
    before = last.get("fruitless") if last.get("job") == job else 0
    fruitless = (before if isinstance(before, int) else 0) + 1 if done == last.get("epoch", 0) else 0
    with suppress(OSError):  # without this file the next try counts anew
        directory.mkdir(parents=True, exist_ok=True)  # the signal may have come before the run
        write_atomically(directory / TRIES, json.dumps({"job": job, "epoch": done, "fruitless": fruitless}) + "\n")
    if fruitless < 2:
        return ""
    return (
        f"an epoch takes longer than the job's limit, which stopped epoch {done + 1} twice: give the job more time, as "
        "in hydra.launcher.timeout_min=2880, or make epochs shorter with trainer.limit_batches"
    )


def record_rank_failure(directory: Path, rank: int, error: BaseException) -> None:
    """Record why a process other than the first one failed; :func:`record_failure` reads it."""
    write_atomically(directory / f"error-rank{rank}", reason(error))


def failure_of_a_rank(directory: Path) -> BaseException | None:
    """What :func:`record_rank_failure` recorded; None if no other process of the run has failed."""
    texts = [_read_reason(path) for path in sorted(directory.glob("error-rank*"))]
    if not texts:
        return None
    by = texts[0].removeprefix(f"{INTERRUPTED} by ")
    return Interrupted(signal.Signals[by]) if by in signal.Signals.__members__ else ValueError(texts[0])


def forget_failure(directory: Path) -> None:
    """Remove the records of a failed attempt; keep its checkpoint."""
    for path in (directory / "result.json", *directory.glob("error-rank*")):
        path.unlink(missing_ok=True)


def has_failed_since(directory: Path, started: float) -> bool:
    """True if an attempt at this run, by any command, failed after ``started``. An interrupted run has not failed."""
    try:
        written = (directory / "result.json").stat().st_mtime
    except OSError:
        return False
    return written > started and result(directory).get("status") == "failed"


def state(directory: Path) -> State:
    """The state of the run in ``directory``. One with damaged files has failed: the text says which."""
    try:
        content, damage = examine(directory)
    except OSError as error:
        return State(directory, "failed", sentence(error))
    if content.get("status") == "done" and (directory / TICKET).is_file() and not damage:
        return State(directory, "done", "", content)
    if is_claimed(directory):
        return State(directory, "running", _progress(directory), content)
    if damage:
        remedy = "repeat the command to make it again" if (directory / CHECKPOINT).is_file() else "remove the directory"
        return State(directory, "failed", f"{damage}: {remedy}", content)
    if content.get("status") == "failed":
        return State(directory, "failed", str(content.get("error", "")), content)
    if content.get("status") != "done" and any((directory / name).exists() for name in (FILE, CONFIG)):
        return State(directory, INTERRUPTED, _progress(directory), content)
    return State(directory, "missing", "", content)


def _progress(directory: Path) -> str:
    return f"after epoch {done}" if (done := finished_epochs(directory)) else ""


def states(folder: Path) -> list[State]:
    """The states of all runs in ``folder`` and of the runs that a sweep into it asked for, sorted by path.

    Raises:
        ValueError: there is no such folder.
    """
    if folder.is_file():
        raise ValueError(f"{folder} is a file: name a folder with runs in it, for instance runs")
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: name a folder with runs in it, for instance runs")
    runs, unreadable = find_runs(folder)
    for path in (*folder.glob(LIST), *folder.glob(f"*/{LIST}")):
        runs |= {path.parent / name for name in read_list(path.parent)}
    found = [state(run) for run in runs - unreadable.keys()]
    found += [State(path, "failed", reason) for path, reason in unreadable.items()]
    queued = {parent: queued_runs(parent) for parent in {run.parent for run in runs}}
    return [_in_queue(run, queued.get(run.directory.parent, {})) for run in sorted(found, key=lambda r: r.directory)]


def _in_queue(run: State, queued: dict[str, tuple[str, str]]) -> State:
    """``run``, or as ``queued`` if a job of SLURM waits to run it."""
    if run.state in ("done", "running") or run.directory.name not in queued:
        return run
    job, why = queued[run.directory.name]
    text = ", ".join(filter(None, (f"SLURM job {job}", why, _progress(run.directory))))
    return replace(run, state="queued", text=text)


def find_runs(folder: Path) -> tuple[set[Path], dict[Path, str]]:
    """The directories of runs at or below ``folder``, and those that cannot be read, with the reason.

    Raises:
        OSError: ``folder`` itself cannot be read.
    """
    runs, unreadable = set[Path](), dict[Path, str]()

    def note(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise error
        unreadable[Path(error.filename)] = sentence(error)

    for parent, folders, files in os.walk(folder, onerror=note):
        folders[:] = [name for name in folders if name not in _NO_RUNS and not name.startswith(".")]
        if not {FILE, CONFIG, "claim"}.isdisjoint(files):
            runs.add(Path(parent))
    return runs, unreadable


def read_list(folder: Path) -> dict[str, list[str]]:
    """Every run that the sweep in ``folder`` asked for: name -> overrides. What is no such entry is left out."""
    return {
        name: overrides
        for name, overrides in read_object(folder / LIST).items()
        if is_text(name, most=255) and name not in ("", ".", "..") and not set(name) & set("/\0")
        if isinstance(overrides, list) and all(map(is_text, overrides))
    }


def status_table(folder: Path) -> str:
    """The table that ``mpt-status`` prints."""
    runs = states(folder)
    counts = {name: sum(run.state == name for run in runs) for name in STATES}
    lines = [f"{run.state:<11} {printable(run.directory.name, 255)}{_in_brackets(run.text)}" for run in runs]
    total = ", ".join(f"{count} {name}" for name, count in counts.items())
    return "\n".join([*lines, f"{count_runs(len(runs))} in {folder}: {total}"])


def _in_brackets(text: str) -> str:
    return f"  ({printable(text, 500)})" if text else ""


def count_runs(number: int) -> str:
    """``1 run``, ``2 runs``."""
    return count(number, "run")
