"""``mpt-wandb sync``: what ``logger=wandb`` recorded offline, given to W&B once a run is finished.

A run that was cut off and went on has several recordings under one id. The last holds all of its epochs, as they are
logged again from its checkpoint, so the others are not sent.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mpt.run.status import states


def recordings(folder: Path) -> list[Path]:
    """The last offline recording of every finished run in ``folder`` that is not at W&B yet."""
    done = {run.directory for run in states(folder) if run.state == "done"}
    found = []
    for directory in sorted({path.parent.parent for path in folder.glob("**/wandb/offline-run-*")}):
        last = max((directory / "wandb").glob("offline-run-*"), key=lambda path: path.name)
        if directory in done and not list(last.glob("*.synced")):
            found.append(last)
    return found


def synced(folder: Path) -> str:
    """Give them to W&B, one after the other; what to say.

    Raises:
        ValueError: nothing was recorded, there is no account, or W&B took some of them not.
    """
    found = recordings(folder)
    if not found:
        raise ValueError(f"{folder} holds no finished run that was recorded offline and not sent yet (logger=wandb)")
    import wandb

    if not wandb.login(prompt=False):
        raise ValueError(f"{len(found)} runs wait in {folder}, but there is no W&B account: run wandb login")
    failed = []
    for path in found:
        command = [sys.executable, "-m", "wandb", "sync", "--yes", str(path)]
        if subprocess.run(command, check=False).returncode:
            failed.append(path)
    if failed:
        raise ValueError(f"W&B did not take {len(failed)} of {len(found)} runs: {', '.join(map(str, failed))}")
    return f"{len(found)} runs sent"
