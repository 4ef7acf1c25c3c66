"""A task of srun as a fork of a process that has imported torch: ``srun ... python -IS task.py SOCKET COMMAND...``.

It asks :mod:`tests.slurm.forks` for the fork, which writes where this process would. To SLURM the two are one: what it
does to this process, or to the processes that COMMAND starts, happens to all of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)


def run(path: str, command: list[str]) -> int:
    """Run ``command`` as a fork; return its exit status, -N after the signal N."""
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile() as answers:
        connection.connect(path)
        about = {"command": command, "environment": dict(os.environ), "cwd": str(Path.cwd()), "pid": os.getpid()}
        connection.sendall((json.dumps(about) + "\n").encode())
        pid = int(answers.readline())
        before = {number: signal.signal(number, lambda number, _: kill_tree(pid, number)) for number in SIGNALS}
        status = int(answers.readline())
        for number, handler in before.items():
            signal.signal(number, handler)
    return status


def kill_tree(pid: int, number: int) -> None:
    """Send a signal to a process and to all that it started, as SLURM's ``proctrack/linuxproc`` finds them."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    tree = [pid]
    for parent in tree:
        tree += [child for child in parents if parents[child] == parent]
    for process in reversed(tree):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


if __name__ == "__main__":
    ended = run(sys.argv[1], sys.argv[2:])
    if ended < 0:
        signal.signal(-ended, signal.SIG_DFL) if ended != -signal.SIGKILL else None
        os.kill(os.getpid(), -ended)
    sys.exit(ended)
