"""What became of runs, read from their directories: done, running, failed or missing. Imports no torch."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mpt.run.claim import is_claimed
from mpt.errors import USERS, sentence
from mpt.run.name import affects_result
from mpt.files import read_object, write_atomically

STATES = ("done", "running", "failed", "missing")
INTERRUPTED = "interrupted"  # the reason of a run that its user stopped
LIST = "sweep.json"  # in the directory of a sweep: every run that a command of it asked for


@dataclass(frozen=True)
class State:
    """Of one run: one of ``STATES``, and for a failed one the reason, for a cut off one how far it came."""

    directory: Path
    state: str
    text: str = ""


def finished(config: dict[str, Any], directory: Path) -> dict[str, Any] | None:
    """The row of a run that is finished in ``directory``; ValueError if another configuration lives there."""
    try:
        there = yaml.load((directory / "config.yaml").read_text(), Loader=_LOADER)
        before, now = affects_result(there), affects_result(config)
    except FileNotFoundError:
        if found := [name for name in ("last.ckpt", "ticket.safetensors") if (directory / name).exists()]:
            raise ValueError(
                f"{directory} holds {found[0]} of an unknown run, without its config.yaml: choose another directory"
            ) from None
        return None
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{directory / 'config.yaml'} is damaged: remove the directory to run it again, or choose another"
        ) from error
    different = [key for key in sorted(before | now) if before.get(key) != now.get(key)]
    begun = any((directory / name).exists() for name in ("last.ckpt", "ticket.safetensors"))
    if not begun or "data_checksum" not in now:  # nothing was learned from other pictures; or the pictures are away
        different = [key for key in different if key != "data_checksum"]
    if different == ["data_checksum"]:
        raise ValueError(
            f"the pictures in data.root are others than those of the run there, {directory}: choose another directory"
        )
    if different:
        changes = ", ".join(f"{key} is {before.get(key)} there and {now.get(key)} here" for key in different[:5])
        raise ValueError(f"{directory} holds a run of another configuration ({changes}): choose another directory")
    row = result(directory)
    return row if row.get("status") == "done" and (directory / "ticket.safetensors").is_file() else None


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where yaml was built with it


def result(directory: Path) -> dict[str, Any]:
    """The row in ``result.json``; empty if there is none, or none that can be read."""
    return read_object(directory / "result.json")


def record_failure(directory: Path, config: dict[str, Any], error: BaseException | str) -> None:
    """Write a ``result.json`` with ``status: failed`` and the reason.

    Of several processes the one that broke is quoted, not one that lost its connection to it.
    """
    text = error if isinstance(error, str) else reason(error)
    told = [path.read_text() for path in sorted(directory.glob("error-rank*"))]
    row = {"status": "failed", "error": (told or [text])[0], "config": config}
    try:
        write_atomically(directory / "result.json", json.dumps(row, indent=2) + "\n")
    except OSError as full:
        print(f"the failure could not be recorded in {directory}: {full}", file=sys.stderr)


def reason(error: BaseException) -> str:
    """Of a failure, as it is written down."""
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return INTERRUPTED
    return sentence(error) if isinstance(error, USERS) else repr(error)


def record_rank_failure(directory: Path, rank: int, error: BaseException) -> None:
    """Say why a process other than the first of a run broke, for the first to quote."""
    write_atomically(directory / f"error-rank{rank}", reason(error))


def forget_failure(directory: Path) -> None:
    """Remove what a failed try left, but its checkpoint."""
    for path in (directory / "result.json", *directory.glob("error-rank*")):
        path.unlink(missing_ok=True)


def state(directory: Path) -> State:
    """Of the run in ``directory``."""
    row = result(directory)
    if row.get("status") == "done" and (directory / "ticket.safetensors").is_file():
        return State(directory, "done")
    if is_claimed(directory):
        return State(directory, "running", _progress(directory))
    if row.get("status") == "failed":
        return State(directory, "failed", str(row.get("error", "")))
    return State(directory, "missing", _progress(directory))


def _progress(directory: Path) -> str:
    try:
        epochs = len((directory / "metrics.jsonl").read_text().splitlines())
    except OSError:
        return ""
    return f"after epoch {epochs}"


def states(folder: Path) -> list[State]:
    """Of every run in ``folder``, and of those that a sweep into it asked for; by name.

    Raises:
        ValueError: there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: name one with runs in it, for instance runs")
    runs = {path.parent for path in folder.glob("**/config.yaml")} | {path.parent for path in folder.glob("*/claim")}
    runs |= {path.parent for path in folder.glob("**/result.json")}
    for path in (*folder.glob(LIST), *folder.glob(f"*/{LIST}")):
        runs |= {path.parent / name for name in listed(path.parent)}
    return [state(run) for run in sorted(runs) if "wandb" not in run.relative_to(folder).parts]  # it keeps a copy


def listed(folder: Path) -> dict[str, list[str]]:
    """Name -> overrides of every run that was asked for in the sweep in ``folder``."""
    return read_object(folder / LIST)


def shown(folder: Path) -> str:
    """What ``mpt-status`` prints."""
    every = states(folder)
    counts = {name: sum(run.state == name for run in every) for name in STATES}
    lines = [f"{run.state:<8} {run.directory.name}{f'  ({run.text})' if run.text else ''}" for run in every]
    total = ", ".join(f"{count} {name}" for name, count in counts.items())
    return "\n".join([*lines, f"{len(every)} runs in {folder}: {total}"])
