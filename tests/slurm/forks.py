"""Starts what :mod:`tests.slurm.task` asks for, as forks of the fork server that :mod:`tests.forked` uses too."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path

from tests.console import SCRIPTS
from tests.forked import Forked
from tests.slurm.task import kill_tree

TASK = Path(__file__).with_name("task.py")


@contextlib.contextmanager
def forking(folder: Path) -> Iterator[Path]:
    """Within it ``folder/task COMMAND...`` runs as a fork; yields that path.

    COMMAND is one of our commands, by name or path, or ``-u -m MODULE ...``, as submitit gives it to Python.
    """
    (script := folder / "task").write_text(f'#!/bin/sh\nexec {sys.executable} -IS {TASK} {folder / "socket"} "$@"\n')
    script.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "socket"))
        listening.listen(64)
        threading.Thread(target=_accept, args=(listening,), daemon=True).start()
        yield script
        listening.shutdown(socket.SHUT_RDWR)


def _accept(listening: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it was shut down
        while True:
            threading.Thread(target=_serve, args=(listening.accept()[0],), daemon=True).start()


def _serve(connection: socket.socket) -> None:
    with connection, connection.makefile() as lines, contextlib.suppress(OSError, EOFError):  # the task was killed
        about = json.loads(lines.readline())
        of_task = Path("/proc", str(about["pid"]))
        started = Forked(
            *_function(about["command"]),
            cwd=about["cwd"],
            out=of_task / "fd" / "1",
            err=of_task / "fd" / "2",
            environment=about["environment"],
            mounts=of_task / "ns" / "mnt",
        )
        with contextlib.suppress(OSError):
            connection.sendall(f"{started.pid}\n".encode())
        if connection in wait([started.sentinel, connection]):
            kill_tree(started.pid, signal.SIGKILL)
        connection.sendall(f"{started.wait()}\n".encode())


def _function(command: list[str]) -> tuple[str, str, list[str]]:
    """The script, the function and the arguments of a command."""
    if command[:2] == ["-u", "-m"]:
        return command[2], "tests.forked:run_module", command[2:]
    return command[0], SCRIPTS[Path(command[0]).name], command[1:]
