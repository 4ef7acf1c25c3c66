"""``mpt-wandb sync``: send to W&B the offline recordings (``logger=wandb``) of finished runs, and of their sweeps.

A run that was interrupted and resumed has several recordings under one id. Only the last is sent: it holds all epochs,
because a resumed run logs the epochs in its checkpoint again.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mpt.run.status import LIST, count_runs, states


def recordings(folder: Path) -> list[Path]:
    """The last offline recording of every finished run, and of every sweep, in ``folder`` that W&B does not have."""
    done = {run.directory for run in states(folder) if run.state == "done"}
    done |= {path.parent for path in folder.glob("**/" + LIST)}
    unsent = []
    for directory in sorted({path.parent.parent for path in folder.glob("**/wandb/offline-run-*")}):
        last = max((directory / "wandb").glob("offline-run-*"), key=lambda path: path.name)
        if directory in done and not list(last.glob("*.synced")):
            unsent.append(last)
    return unsent


def sync(folder: Path) -> str:
    """Send the recordings in ``folder`` to W&B, one after the other; return the line to print.

    Raises:
        ValueError: nothing was recorded, there is no account, or W&B rejected some of them.
    """
    unsent = recordings(folder)
    if not unsent:
        raise ValueError(f"{folder} holds no finished run to send: record runs with logger=wandb")
    import wandb

    if not wandb.login(prompt=False):
        raise ValueError(
            f"{folder} holds {count_runs(len(unsent))} to send, but there is no W&B account: run wandb login"
        )
    failed = []
    for path in unsent:
        command = [sys.executable, "-m", "wandb", "sync", "--yes", str(path)]
        if subprocess.run(command, check=False).returncode:
            failed.append(path)
    if failed:
        raise ValueError(f"W&B rejected {len(failed)} of {count_runs(len(unsent))}: {', '.join(map(str, failed))}")
    return f"{count_runs(len(unsent))} sent"
