"""One job of a multirun, wherever a launcher runs it: in this process, or apart if the run takes several."""

from __future__ import annotations

import os
import sys
import time
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mpt.experiment.kinds import run
from mpt.run.apart import cuda_devices, follow_sweep, hold_devices, needs_processes, run_apart
from mpt.run.claim import ClaimedError, hold_claim, holder, slurm_job
from mpt.run.settings import Settings
from mpt.run.status import finished_result, has_failed_since, reason, record_failure, result


def job(settings: Settings, directory: Path, hydra: Any) -> None:
    """Run ``settings`` in ``directory`` unless that run is done, has failed since the sweep began, or is claimed.

    A failure is recorded and printed; it stops no other job.

    Args:
        settings: of the run.
        directory: of the run.
        hydra: Hydra's configuration of this job.
    """
    follow_sweep()
    started = hydra.sweeper.get("started") or time.time()
    try:
        _job(settings, directory, hydra, started)
    except ClaimedError as busy:
        print(f"{busy}", flush=True)
    except (OSError, ValueError) as error:  # from the directory; _attempt catches errors of the run itself
        print(f"failed: {directory}: {reason(error)}", file=sys.stderr, flush=True)


def _job(settings: Settings, directory: Path, hydra: Any, started: float) -> None:
    if finished_result(settings, directory) or has_failed_since(directory, started):
        return
    print(f"\n{directory.name}: {' '.join(_axes(hydra))}", flush=True)
    if int(os.environ.get("SLURM_PROCID", 0)) > 0 and not needs_processes(settings.trainer):
        if _first_task_runs(directory):
            _attempt(settings, directory, record=False)
        return
    with hold_claim(directory) as claim:
        if has_failed_since(directory, started):
            return
        if needs_processes(settings.trainer) or _count_devices(settings, hydra):
            _apart(settings, directory, hydra, claim.fileno())
        else:
            _attempt(settings, directory, record=True)


def _axes(hydra: Any) -> list[str]:
    return [override for override in hydra.overrides.task if not override.startswith(("sweeps=", "hydra."))]


def _attempt(settings: Settings, directory: Path, *, record: bool) -> None:
    try:
        run(settings, directory)
    except SystemExit:  # Lightning exits on Ctrl-C
        raise KeyboardInterrupt from None
    except Exception as error:
        if os.environ.get("MPT_TRACEBACK"):
            traceback.print_exc()
        if record:
            record_failure(directory, settings, error)
        print(f"failed: {directory}: {reason(error)}", file=sys.stderr, flush=True)


def _first_task_runs(directory: Path, *, seconds: float = 120) -> bool:
    """In a task of a SLURM job other than the first: wait until the first holds the run; False if it never does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holder(directory).get("job") == slurm_job():
            return True
        time.sleep(0.2)
    return False


def _apart(settings: Settings, directory: Path, hydra: Any, claim: int) -> None:
    flags = [
        word
        for source in hydra.runtime.config_sources
        if source.provider == "command-line"
        for word in ("--config-dir", source.path)
    ]
    flags += ["--config-name", hydra.job.config_name]
    with ExitStack() as stack:
        environment = {}
        if count := _count_devices(settings, hydra):
            devices = stack.enter_context(hold_devices(count, cuda_devices()))
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        failure = run_apart(
            hydra.overrides.task, flags, directory, claim=claim, environment=environment, cwd=hydra.runtime.cwd
        )
    if failure and result(directory).get("status") != "failed":
        record_failure(directory, settings, failure)


def _count_devices(settings: Settings, hydra: Any) -> int:
    """Number of CUDA devices for this job alone; 0 unless joblib runs several jobs at the same time."""
    if "Joblib" not in str(hydra.launcher.get("_target_")) or settings.trainer.accelerator == "cpu":
        return 0
    devices = settings.trainer.devices
    count = 1 if str(devices) == "auto" else int(devices) if str(devices).isdigit() else 0
    return count if count and len(cuda_devices()) > 1 else 0
