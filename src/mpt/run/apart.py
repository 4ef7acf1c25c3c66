"""A run of several processes inside a multirun: it starts in a fresh interpreter, as a single run does.

Lightning starts the other processes of a run by repeating the command line, which in a multirun names all runs.
Therefore such a job starts ``python -m mpt.commands.cli`` with its own overrides and ``hydra.mode=RUN``, and waits for
it. If any of them dies, the others end too: the child reads a pipe that closes with the parent, the parent kills the
child's process group, and a joblib worker watches the process that started it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mpt.run.claim import ClaimedError, hold_claim
from mpt.signals import PATIENCE, Interrupted

APART = "MPT_APART"  # set in the child, whose parent names and claims the directory
DIRECTORY = "MPT_DIRECTORY"  # of the run that a process belongs to, set by the one that started it
_OF_A_RANK = ("LOCAL_RANK", "GLOBAL_RANK", "RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK")
_OF_THE_PARENT = (*_OF_A_RANK, "MASTER_ADDR", "MASTER_PORT", "HYDRA_FULL_ERROR")


@contextmanager
def hand_on(directory: Path) -> Iterator[None]:
    """Inside, processes that start get the ``directory`` of their run; a later run of this process does not."""
    before = os.environ.get(DIRECTORY)
    os.environ[DIRECTORY] = str(directory.resolve())
    try:
        yield
    finally:
        del os.environ[DIRECTORY]
        if before is not None:
            os.environ[DIRECTORY] = before


def run_apart(
    overrides: Sequence[str],
    flags: Sequence[str],
    directory: Path,
    *,
    claim: int,
    environment: dict[str, str],
    cwd: str,
) -> str | None:
    """Run ``mpt-train *flags *overrides`` in ``directory`` and wait for it; return why it failed, or None.

    Args:
        overrides: of this job.
        flags: ``--config-dir DIR`` and the like: argparse wants them before all overrides.
        directory: of the run.
        claim: file descriptor of its claim, which the child shares. The claim lapses when both have ended.
        environment: variables for the child alone.
        cwd: folder in which the user gave the command.
    """
    command = [sys.executable, "-m", "mpt.commands.cli", *flags, *overrides, "hydra.mode=RUN"]
    variables = {
        name: value
        for name, value in os.environ.items()
        if name not in _OF_THE_PARENT and not name.startswith(("SLURM_", "SUBMITIT_"))
    }
    variables |= {APART: "1", DIRECTORY: str(directory.resolve()), "PYTHONSAFEPATH": "1", **environment}
    child = subprocess.Popen(
        command, env=variables, cwd=cwd, stdin=subprocess.PIPE, start_new_session=True, pass_fds=(claim,)
    )
    try:
        code = child.wait()
    except Interrupted as interruption:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, interruption.signum)  # the child has its own session, which Ctrl-C does not reach
        _wait(child, seconds=PATIENCE / 2)
        raise
    finally:
        _kill_group(child.pid)  # processes that outlived the first one
        _wait(child, seconds=5)
        assert child.stdin is not None
        child.stdin.close()
    if code == 0:
        return None
    return f"the run's process ended with {signal.Signals(-code).name if code < 0 else f'status {code}'}"


def _wait(child: subprocess.Popen[bytes], *, seconds: float) -> None:
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        _kill_group(child.pid)


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def follow_parent() -> None:
    """In a child of :func:`run_apart`: end this process and its group when the parent ends."""
    if os.environ.get(APART) and "LOCAL_RANK" not in os.environ:
        threading.Thread(target=_exit_when_closed, daemon=True).start()


def _exit_when_closed() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock would still be held when the interpreter ends
        pass
    os.killpg(0, signal.SIGKILL)


def follow_sweep() -> None:
    """In a worker of joblib: end this process when the sweep ends; otherwise the worker would finish its queue."""
    import multiprocessing

    parent = multiprocessing.parent_process()
    if parent is not None and not any(thread.name == "follow_sweep" for thread in threading.enumerate()):
        threading.Thread(target=_exit_when_orphan, args=(parent.pid,), name="follow_sweep", daemon=True).start()


def _exit_when_orphan(parent: int | None) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)  # which closes the pipe to a child of run_apart


@contextmanager
def hold_devices(count: int, visible: Sequence[str]) -> Iterator[list[str]]:
    """Reserve ``count`` of this machine's ``visible`` devices for this process; wait until that many are free."""
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"mpt-devices-{os.getuid()}"
    while True:
        with ExitStack() as claims:
            devices: list[str] = []
            for device in visible:
                if len(devices) < count:
                    with suppress(ClaimedError):
                        claims.enter_context(hold_claim(folder / device))
                        devices.append(device)
            if len(devices) == count:
                yield devices
                return
        time.sleep(1)  # holding none: two jobs that each held one of two devices would wait forever


def cuda_devices() -> list[str]:
    """Names of the CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES spells them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device.strip() for device in visible.split(",") if device.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]
