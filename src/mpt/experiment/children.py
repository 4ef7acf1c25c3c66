"""The other processes of a run, followed by one that waits for them in C: in the rendezvous of training, and in NCCL.

No exception reaches it there. The first process follows those that Lightning starts, or all that srun or torchrun
started, and these follow the first one. If one of them has died, Lightning's own thread would end the first process
with SIGKILL and without a word. The thread here lets it end by itself, or ends it with the reason.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL, Signals
from subprocess import Popen
from typing import NoReturn

import lightning as L

from mpt.phases import stop
from mpt.processes import group, is_first
from mpt.run.peers import meet
from mpt.run.settings import Settings
from mpt.run.status import describe_interruption, failure_of_a_rank, reason, record_failure
from mpt.signals import Interrupted, cause

_LOOK = 0.2  # seconds between two looks at the processes
_PATIENCE = 5.0  # seconds that the main thread has to notice that a process has died


@contextmanager
def followed(trainer: L.Trainer, settings: Settings, directory: Path) -> Iterator[None]:
    """In the block, in which ``trainer`` trains in ``directory``, this process ends if one that it follows dies."""
    follows = trainer.world_size > 1 and (group() is not None or trainer.local_rank == 0)
    over = threading.Event()
    if follows:
        about = (trainer, settings, directory, over)
        threading.Thread(target=_follow, args=about, name="children", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _follow(trainer: L.Trainer, settings: Settings, directory: Path, over: threading.Event) -> None:
    while not over.wait(_LOOK):
        for thread in threading.enumerate():
            if thread.name == "child-process-observer":  # Lightning's, which first looks after five seconds
                thread._child_processes = []  # type: ignore[attr-defined]
        if describe_death(trainer) and not over.wait(_PATIENCE):
            ended = find_cause(ValueError("a process of this run ended"), trainer, settings, directory)
            if not over.is_set():
                _end(ended, settings, directory)
            return


def _end(ended: BaseException, settings: Settings, directory: Path) -> NoReturn:
    """Record why the run has ended and say it, if this process speaks for the run, and end it."""
    if group() is not None and not is_first():
        os._exit(1)
    command = "mpt-finetune" if hasattr(settings, "ticket") else "mpt-train"
    record_failure(directory, settings, ended)
    stop()
    sys.stdout.flush()
    if isinstance(ended, Interrupted):
        words = f"interrupted{describe_interruption(directory, settings.epochs)}"
    else:
        words = reason(ended)
    print(f"{command}: {words}", file=sys.stderr, flush=True)
    os._exit(ended.status if isinstance(ended, Interrupted) else 1)


def find_cause(error: BaseException, trainer: L.Trainer, settings: Settings, directory: Path) -> BaseException:
    """What ended the run: ``error``, or what it is an effect of, an interruption or the end of another process.

    A signal may reach another process of this run, or W&B's, a moment before it reaches this one.
    """
    others = trainer.world_size > 1 or settings.logger.wandb
    ended = cause(error, patience=1.0 if others and not isinstance(error, ValueError) else 0.0)
    death = describe_death(trainer)
    stop_children(trainer)
    if isinstance(ended, Interrupted):
        return ended
    return failure_of_a_rank(directory) or (ValueError(death) if death else ended)


def describe_death(trainer: L.Trainer) -> str:
    """How a process that this one follows for the run of ``trainer`` has failed; empty if none has."""
    if peers := meet():
        return next((peers.describe_end(rank) for rank in sorted(peers.ended)), "")
    for number, process in enumerate(_processes(trainer), 2):
        if code := process.poll():
            which = f"process {number} of {trainer.world_size} of this run"
            if code == -SIGKILL:
                return f"{which} was killed (out of memory?): the same command continues"
            how = Signals(-code).name if code < 0 else f"status {code}"
            return f"{which} ended with {how}: what it printed says why, and the same command continues"
    return ""


def stop_children(trainer: L.Trainer) -> None:
    """Kill the processes that Lightning started for the run of ``trainer``, which has ended."""
    for process in _processes(trainer):
        process.kill()
        process.wait()


def _processes(trainer: L.Trainer) -> list[Popen[bytes]]:
    """None with strategies that fork: their parent only waits, and raises what a child raised."""
    return [process for process in getattr(trainer.strategy.launcher, "procs", ()) if isinstance(process, Popen)]
