"""One job of a multirun, wherever a launcher runs it: in this process, or apart if the run takes several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from mpt.errors import ToldElsewhereError
from mpt.experiment.kinds import run
from mpt.experiment.team import share
from mpt.phases import silent, tell
from mpt.processes import is_first
from mpt.run.apart import cuda_devices, follow_sweep, hold_devices, run_apart
from mpt.run.claim import ClaimedError, hold_claim
from mpt.run.layout import needs_processes
from mpt.run.settings import Settings
from mpt.run.status import (
    describe_interruption,
    finished_result,
    has_failed_since,
    name_limit,
    reason,
    record_failure,
    result,
)
from mpt.signals import SIGNALS, Interrupted, cause, handled, unwind


def job(settings: Settings, directory: Path, hydra: Any) -> dict[str, Any]:
    """Run ``settings`` in ``directory`` unless that run is done, has failed since the sweep began, or is claimed.

    A failure is recorded and printed; it stops no other job. Returns what ``result.json`` holds then, if anything.

    Args:
        settings: of the run.
        directory: of the run.
        hydra: Hydra's configuration of this job.
    """
    follow_sweep()
    started = hydra.sweeper.get("started") or time.time()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with _silence(hydra), handled() as ours:  # in a process of a launcher; otherwise the command handles signals
        try:
            _job(settings, directory, hydra, started)
        except ToldElsewhereError:
            pass
        except ClaimedError as busy:
            tell(str(busy))
        except (OSError, ValueError) as error:  # from the directory; _attempt catches errors of the run itself
            if isinstance(ended := cause(error), Interrupted):
                raise ended from error
            print(f"failed: {directory}: {reason(error)}", file=sys.stderr, flush=True)
        except Interrupted as interruption:
            if not ours:
                raise
            unwind()
            if is_first() and (limit := name_limit(directory, interruption.signum)):
                record_failure(directory, settings, limit)
                print(f"failed: {directory}: {limit}", file=sys.stderr, flush=True)
                return result(directory)
            text = describe_interruption(directory, settings.epochs)
            print(f"{directory.name}: interrupted{text}", file=sys.stderr, flush=True)
            _end_process(interruption, before[signal.Signals(interruption.signum)])
    return result(directory)


def _silence(hydra: Any) -> AbstractContextManager[None]:
    """Silent where a sweep of ours speaks for the run. A job of Submitit has a log of its own."""
    speaks = not hydra.sweeper.get("started") or "ubmitit" in str(hydra.launcher.get("_target_"))
    return nullcontext() if speaks else silent()


def _end_process(interruption: Interrupted, before: Any) -> NoReturn:
    """End a process of a launcher as the launcher would: ``before`` is its own handler of the signal.

    Submitit's handler of the signal that announces a time limit puts the job back into the queue.
    """
    if multiprocessing.parent_process() is not None:  # joblib would hand SystemExit on to the command
        os._exit(interruption.status)
    if callable(before) and interruption.signum in (signal.SIGUSR1, signal.SIGUSR2):
        before(interruption.signum, None)
    sys.exit(interruption.status)


def _job(settings: Settings, directory: Path, hydra: Any, started: float) -> None:
    if share(lambda: bool(finished_result(settings, directory)) or has_failed_since(directory, started)):
        return
    tell(f"\n{directory.name}: {' '.join(_axes(hydra))}")
    with ExitStack() as stack:
        descriptor = share(lambda: _claim(stack, directory, started))
        if descriptor is None:
            return
        if needs_processes(vars(settings.trainer)) or _count_devices(settings, hydra):
            _apart(settings, directory, hydra, descriptor)
        else:
            _attempt(settings, directory)


def _claim(stack: ExitStack, directory: Path, started: float) -> int | None:
    """The file descriptor of the claim of ``directory``, held by ``stack``; None if the run has just failed."""
    claim = stack.enter_context(hold_claim(directory))
    return None if has_failed_since(directory, started) else claim.fileno()


def _axes(hydra: Any) -> list[str]:
    return [override for override in hydra.overrides.task if not override.startswith(("sweeps=", "hydra."))]


def _attempt(settings: Settings, directory: Path) -> None:
    try:
        run(settings, directory)
    except Exception as error:
        if isinstance(ended := cause(error), Interrupted):
            raise ended from error
        if os.environ.get("MPT_TRACEBACK", "0") not in ("", "0"):
            traceback.print_exc()
        if is_first():
            record_failure(directory, settings, error)
            print(f"failed: {directory}: {reason(error)}", file=sys.stderr, flush=True)


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
