"""A run of several processes inside a multirun: a fresh interpreter, started as a single run would be.

Lightning starts the other processes of a run by repeating the command line, which in a multirun names all runs. So such
a job starts ``python -m mpt.commands.cli`` with its own overrides and ``hydra.mode=RUN``, and waits for it. If any of
them dies, the others end too: the child reads a pipe that closes with the parent, the parent kills the child's process
group, and a joblib worker watches the process that started it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mpt.run.claim import ClaimedError, claimed
from mpt.run.settings import Trainer

APART = "MPT_APART"  # set in the child: the directory is claimed and named by its parent
_OF_A_RANK = ("LOCAL_RANK", "GLOBAL_RANK", "RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK")
_OF_THE_PARENT = (*_OF_A_RANK, "MASTER_ADDR", "MASTER_PORT", "HYDRA_FULL_ERROR")


def is_first() -> bool:
    """True in the first process of a run, as Lightning or SLURM number them, and before there are others."""
    return all(int(os.environ.get(name, 0)) == 0 for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def needs_processes(trainer: Trainer) -> bool:
    """True if Lightning would start further processes for a run with these settings of ``trainer``."""
    if int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in os.environ:
        return False  # one task a device: the processes are there already
    devices = trainer.devices
    if trainer.num_nodes > 1:
        return True
    if isinstance(devices, (list, tuple)):
        return len(devices) > 1
    if str(devices) in ("auto", "-1"):
        return trainer.accelerator != "cpu" and _accelerators() > 1
    text = str(devices)
    return text != "1" if text.isdigit() else "," in text


def _accelerators() -> int:
    import torch

    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def run_apart(
    overrides: Sequence[str],
    flags: Sequence[str],
    directory: Path,
    *,
    claim: int,
    environment: dict[str, str],
    cwd: str,
) -> str | None:
    """Run ``mpt-train *flags *overrides`` in ``directory`` to its end; the reason if it failed, else None.

    Args:
        overrides: of this job.
        flags: ``--config-dir DIR`` and the like: argparse wants them before all overrides.
        directory: of the run.
        claim: file descriptor of its claim, which the child shares: it lapses when both have ended.
        environment: variables for the child alone.
        cwd: folder in which the command was given.
    """
    command = [sys.executable, "-m", "mpt.commands.cli", *flags, *overrides, "hydra.mode=RUN"]
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _OF_THE_PARENT and not name.startswith(("SLURM_", "SUBMITIT_"))
    }
    kept |= {APART: "1", "MPT_DIRECTORY": str(directory.resolve()), "PYTHONSAFEPATH": "1", **environment}
    child = subprocess.Popen(
        command, env=kept, cwd=cwd, stdin=subprocess.PIPE, start_new_session=True, pass_fds=(claim,)
    )
    try:
        code = child.wait()
    except KeyboardInterrupt:
        os.killpg(child.pid, signal.SIGINT)  # a session of its own: Ctrl-C did not reach it
        _wait(child, seconds=20)
        raise
    finally:
        _kill_group(child.pid)  # processes that outlived the first
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
        threading.Thread(target=_until_closed, daemon=True).start()


def _until_closed() -> None:
    while os.read(0, 1):  # not sys.stdin: its lock would be held when the interpreter ends
        pass
    os.killpg(0, signal.SIGKILL)


def follow_sweep() -> None:
    """In a worker of joblib, which would finish its queue: end this process when the sweep ends."""
    parent = multiprocessing.parent_process()
    if parent is not None and not any(thread.name == "follow_sweep" for thread in threading.enumerate()):
        threading.Thread(target=_until_orphan, args=(parent.pid,), name="follow_sweep", daemon=True).start()


def _until_orphan(parent: int | None) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)  # a child of run_apart sees its pipe close


@contextmanager
def devices_held(count: int, visible: Sequence[str]) -> Iterator[list[str]]:
    """``count`` of this machine's ``visible`` devices for this process alone; waits until so many are free."""
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"mpt-devices-{os.getuid()}"
    held: dict[str, Any] = {}
    while len(held) < count:
        for device in visible:
            if device not in held and len(held) < count:
                holding = claimed(folder / device)
                try:
                    holding.__enter__()
                except ClaimedError:
                    continue
                held[device] = holding
        if len(held) < count:
            for (
                holding
            ) in held.values():  # never wait while holding some: two jobs that want two each would wait forever
                holding.__exit__(None, None, None)
            held = {}
            time.sleep(1)
    try:
        yield list(held)
    finally:
        for holding in held.values():
            holding.__exit__(None, None, None)


def cuda_devices() -> list[str]:
    """The CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES spells them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [device.strip() for device in given.split(",") if device.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]
