"""How far a run has come, by the files in its directory."""

from __future__ import annotations

from pathlib import Path

from mpt.run.config import read_config
from mpt.run.result import METRICS_FILE

CHECKPOINT = "last.ckpt"


def finished_epochs(directory: Path) -> int:
    """Number of the epoch after which the run in ``directory`` resumes."""
    metrics, checkpoint = directory / METRICS_FILE, directory / CHECKPOINT
    try:
        with metrics.open("rb") as file:
            rows = sum(1 for _ in file)
        if checkpoint.stat().st_mtime_ns >= metrics.stat().st_mtime_ns:
            return rows
    except OSError:  # the first epoch is not over
        return 0
    every = _checkpoint_every(directory)
    return (rows - 1) // every * every


def _checkpoint_every(directory: Path) -> int:
    try:
        return max(1, int(read_config(directory)["trainer"]["checkpoint_every"]))
    except (OSError, ValueError, LookupError, TypeError):  # of an earlier version, or damaged, which others report
        return 1
