"""A run's directory belongs to one process at a time. The kernel releases it, however that process ends.

The claim is an ``flock`` on the file ``claim`` in the directory. It works on local file systems, and on NFS from
Linux 2.6.12 on if the server supports locks. File systems without locks are refused. On NFS a child does not share its
parent's lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mpt.processes import slurm_job
from mpt.schema import printable, read_object

NAME = "claim"


class ClaimedError(ValueError):
    """Another process holds this run."""


@contextmanager
def hold_claim(directory: Path, *, name: str = NAME, patience: float = 0.2) -> Iterator[IO[str]]:
    """Hold ``directory``, created if absent, and yield the open claim file; remove a directory left empty.

    Args:
        directory: of a run, or any other one.
        name: of the file to lock.
        patience: seconds to wait while another process holds the directory; mpt-status does for a moment.

    Raises:
        ClaimedError: another process still holds it after ``patience``.
        ValueError: the file system has no locks.
    """
    new = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        file = _lock(directory, name, patience)
        try:
            yield file
        finally:
            # first, so that a process that waits for the lock of this file sees that it is no longer the claim
            (directory / name).unlink(missing_ok=True)
            file.close()
    finally:
        for folder in new:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _lock(directory: Path, name: str, patience: float) -> IO[str]:
    end = time.monotonic() + patience
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        try:
            file = (directory / name).open("a+")
        except FileNotFoundError:  # another process removed the directory in between
            if time.monotonic() > end:
                raise
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            words = _describe_holder(directory / name)
            file.close()
            if time.monotonic() > end:
                raise ClaimedError(f"another command is running {directory}{words}: wait for it, or end it") from None
            time.sleep(0.05)
            continue
        except OSError as error:
            if not os.fstat(file.fileno()).st_size:  # no process holds it
                (directory / name).unlink(missing_ok=True)
            file.close()
            raise ValueError(
                f"{directory} cannot be locked ({error.strerror}): choose a folder on a file system with locks, such "
                "as a local disk"
            ) from error
        if _is_open_file(file, directory / name):
            file.truncate(0)
            file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "job": slurm_job()}) + "\n")
            file.flush()
            return file
        file.close()


def _is_open_file(file: IO[str], path: Path) -> bool:
    """True if ``path`` is still ``file``; False if it was removed or replaced between opening and locking."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def is_claimed(directory: Path) -> bool:
    """True while a process holds ``directory``."""
    try:
        with (directory / NAME).open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def holder(directory: Path) -> dict[str, object]:
    """Host, process and SLURM job that hold ``directory``, as their claim says; empty if there is none."""
    return read_object(directory / NAME)


def _describe_holder(claim: Path) -> str:
    known = read_object(claim)
    return (
        f" (process {printable(known['pid'])} on {printable(known['host'])})" if {"pid", "host"} <= known.keys() else ""
    )
