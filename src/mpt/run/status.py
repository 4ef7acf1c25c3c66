"""The state of runs, read from their directories: done, running, failed or missing."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mpt.errors import is_mendable, sentence
from mpt.files import read_object, write_atomically
from mpt.run.claim import is_claimed
from mpt.run.name import identity
from mpt.run.settings import Settings, plain

STATES = ("done", "running", "failed", "missing")
INTERRUPTED = "interrupted"  # the recorded reason of a run that its user stopped
LIST = "sweep.json"  # in the folder of a sweep: every run that any of its commands asked for
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, if yaml was built with it


@dataclass(frozen=True)
class State:
    """The state of one run, one of ``STATES``, and a text: why it failed, or how far it came."""

    directory: Path
    state: str
    text: str = ""


def finished_result(settings: Settings, directory: Path) -> dict[str, Any] | None:
    """The result of this run if it is finished in ``directory``, else None.

    Raises:
        ValueError: ``directory`` holds another run, or a damaged ``config.yaml``.
    """
    try:
        config = yaml.load((directory / "config.yaml").read_text(), Loader=_LOADER)
        before, now = identity(config), identity(plain(settings))
    except FileNotFoundError:
        if leftovers := [name for name in ("last.ckpt", "ticket.safetensors") if (directory / name).exists()]:
            raise ValueError(
                f"{directory} holds {leftovers[0]} of an unknown run, without its config.yaml: choose another directory"
            ) from None
        return None
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{directory / 'config.yaml'} is damaged: remove the directory to run it again, or choose another"
        ) from error
    different = [key for key in sorted(before | now) if before.get(key) != now.get(key)]
    started = any((directory / name).exists() for name in ("last.ckpt", "ticket.safetensors"))
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
    content = result(directory)
    return content if content.get("status") == "done" and (directory / "ticket.safetensors").is_file() else None


def result(directory: Path) -> dict[str, Any]:
    """The content of ``result.json``; empty if it is absent or unreadable."""
    return read_object(directory / "result.json")


def record_failure(directory: Path, settings: Settings, error: BaseException | str) -> None:
    """Write a ``result.json`` with ``status: failed`` and the reason.

    If one of several processes failed, its reason is recorded, not that of a process that lost its connection to it.
    """
    ranks = [path.read_text() for path in sorted(directory.glob("error-rank*"))]
    texts = [*ranks, error if isinstance(error, str) else reason(error)]
    content = {"status": "failed", "error": texts[0], "config": plain(settings)}
    try:
        write_atomically(directory / "result.json", json.dumps(content, indent=2) + "\n")
    except OSError as full:
        print(f"the failure could not be recorded in {directory}: {full}", file=sys.stderr)


def reason(error: BaseException) -> str:
    """The words that record why a run failed."""
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return INTERRUPTED
    return sentence(error) if is_mendable(error) else repr(error)


def record_rank_failure(directory: Path, rank: int, error: BaseException) -> None:
    """Record why a process other than the first one failed; :func:`record_failure` reads it."""
    write_atomically(directory / f"error-rank{rank}", reason(error))


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
    content = result(directory)
    return written > started and content.get("status") == "failed" and content.get("error") != INTERRUPTED


def state(directory: Path) -> State:
    """The state of the run in ``directory``."""
    content = result(directory)
    if content.get("status") == "done" and (directory / "ticket.safetensors").is_file():
        return State(directory, "done")
    if is_claimed(directory):
        return State(directory, "running", _progress(directory))
    if content.get("status") == "failed" and content.get("error") != INTERRUPTED:
        return State(directory, "failed", str(content.get("error", "")))
    return State(directory, "missing", _progress(directory))


def _progress(directory: Path) -> str:
    try:
        epochs = len((directory / "metrics.jsonl").read_text().splitlines())
    except OSError:
        return ""
    return f"after epoch {epochs}"


def states(folder: Path) -> list[State]:
    """The states of all runs in ``folder`` and of the runs that a sweep into it asked for, sorted by path.

    Raises:
        ValueError: there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: name a folder with runs in it, for instance runs")
    runs = {path.parent for path in folder.glob("**/config.yaml")} | {path.parent for path in folder.glob("*/claim")}
    runs |= {path.parent for path in folder.glob("**/result.json")}
    for path in (*folder.glob(LIST), *folder.glob(f"*/{LIST}")):
        runs |= {path.parent / name for name in read_list(path.parent)}
    return [state(run) for run in sorted(runs) if "wandb" not in run.relative_to(folder).parts]  # W&B keeps copies


def read_list(folder: Path) -> dict[str, list[str]]:
    """Every run that the sweep in ``folder`` asked for: name -> overrides."""
    return read_object(folder / LIST)


def status_table(folder: Path) -> str:
    """The table that ``mpt-status`` prints."""
    runs = states(folder)
    counts = {name: sum(run.state == name for run in runs) for name in STATES}
    lines = [f"{run.state:<8} {run.directory.name}{f'  ({run.text})' if run.text else ''}" for run in runs]
    total = ", ".join(f"{count} {name}" for name, count in counts.items())
    return "\n".join([*lines, f"{count_runs(len(runs))} in {folder}: {total}"])


def count_runs(number: int) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number} {'run' if number == 1 else 'runs'}"
