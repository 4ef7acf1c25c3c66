"""One job of a multirun, wherever a launcher runs it: in this process, or apart where the run takes several."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mpt.experiment import isolation, status
from mpt.run.claim import ClaimedError, claimed, holder, slurm_job
from mpt.multirun.sweep import failed_since

Run = Callable[[dict[str, Any], Path], None]


def job(config: dict[str, Any], directory: Path, hydra: Any, *, run: Run) -> None:
    """``run(config, directory)`` unless that is done, failed since the sweep began, or in another's hands.

    A failure is written down and said, and stops no other job.
    """
    isolation.follow_sweep()
    started = hydra.sweeper.get("started") or time.time()
    try:
        _job(config, directory, hydra, started, run=run)
    except ClaimedError as busy:
        print(f"{busy}", flush=True)
    except (OSError, ValueError) as error:  # of the directory: what the run itself says is caught there
        print(f"failed: {directory}: {status.reason(error)}", file=sys.stderr, flush=True)


def _job(config: dict[str, Any], directory: Path, hydra: Any, started: float, *, run: Run) -> None:
    if status.finished(config, directory) or failed_since(directory, started):
        return
    print(f"\n{directory.name}: {' '.join(_axes(hydra))}", flush=True)
    if int(os.environ.get("SLURM_PROCID", 0)) > 0 and not isolation.needed(config["trainer"]):
        if _first_task_runs(directory):
            _attempt(run, config, directory, record=False)
        return
    with claimed(directory) as claim:
        if status.finished(config, directory) or failed_since(directory, started):
            return
        if isolation.needed(config["trainer"]) or _dealt(config, hydra):
            _apart(config, directory, hydra, claim.fileno())
        else:
            _attempt(run, config, directory, record=True)


def _axes(hydra: Any) -> list[str]:
    return [override for override in hydra.overrides.task if not override.startswith(("sweeps=", "hydra."))]


def _attempt(run: Run, config: dict[str, Any], directory: Path, *, record: bool) -> None:
    try:
        run(config, directory)
    except SystemExit:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt from None
    except Exception as error:
        if os.environ.get("MPT_TRACEBACK"):
            traceback.print_exc()
        if record:
            status.record_failure(directory, config, error)
        print(f"failed: {directory}: {status.reason(error)}", file=sys.stderr, flush=True)


def _first_task_runs(directory: Path, *, seconds: float = 120) -> bool:
    """Of the other tasks of a SLURM job: True once the first one holds the run, False if it does not come to that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holder(directory).get("job") == slurm_job():
            return True
        time.sleep(0.2)
    return False


def _apart(config: dict[str, Any], directory: Path, hydra: Any, claim: int) -> None:
    flags = [
        word
        for source in hydra.runtime.config_sources
        if source.provider == "command-line"
        for word in ("--config-dir", source.path)
    ]
    flags += ["--config-name", hydra.job.config_name]
    with ExitStack() as stack:
        environment = {}
        if count := _dealt(config, hydra):
            devices = stack.enter_context(isolation.dealt(count, isolation.cuda_devices()))
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        reason = isolation.run_apart(
            hydra.overrides.task, flags, directory, claimed=claim, environment=environment, cwd=hydra.runtime.cwd
        )
    if reason and status.result(directory).get("status") != "failed":
        status.record_failure(directory, config, reason)


def _dealt(config: dict[str, Any], hydra: Any) -> int:
    """How many CUDA devices this job is to be given of its own; 0 unless joblib runs several jobs beside each other."""
    if "Joblib" not in str(hydra.launcher.get("_target_")) or config["trainer"]["accelerator"] == "cpu":
        return 0
    devices = config["trainer"]["devices"]
    wanted = 1 if str(devices) == "auto" else int(devices) if str(devices).isdigit() else 0
    return wanted if wanted and len(isolation.cuda_devices()) > 1 else 0
