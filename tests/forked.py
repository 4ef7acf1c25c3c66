"""Console commands as processes of their own that need not import torch first: forked from one that has done so.

A process that imports torch and Lightning takes seconds before it begins to work, and tests of kills, signals and
sweeps start a hundred. Here each is a fork of :mod:`multiprocessing`'s fork server, which has imported what
``mpt-train`` imports and run nothing. In everything else it is like a process that a shell starts: its own arguments,
environment, folder, output, session and signals, and ``__main__`` is the script of the command.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import multiprocessing
import multiprocessing.process
import os
import runpy
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path

PRELOADED = ["mpt.commands.cli", "mpt.experiment.kinds", "mpt.experiment.train", "mpt.multirun.sweep"]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE)
WRITE = os.O_WRONLY | os.O_CREAT | os.O_APPEND

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


class Forked:
    """A started command; the part of :class:`subprocess.Popen` that tests need."""

    def __init__(
        self, script: Path, function: str, arguments, *, cwd: Path, out: Path, err: Path, environment=None, mounts=None
    ) -> None:
        """Start ``function``, as ``module:name``, as ``script *arguments`` in ``cwd``.

        What it prints is added to the files ``out`` and ``err``, which may be one. ``environment`` is this process's by
        default, and ``mounts`` the file of a namespace of mounts to enter.
        """
        self.args = [str(script), *map(str, arguments)]
        ready, says_ready = _context.Pipe(duplex=False)
        environment = dict(environment or os.environ) | {"OMP_NUM_THREADS": "1"}
        about = (function, self.args, environment, str(cwd), (str(out), str(err)), mounts, says_ready)
        self._process = _context.Process(target=_begin, args=about)
        self._process.start()
        says_ready.close()
        ready.recv()  # it leads its session: who kills the group now kills it
        ready.close()
        self.pid = self._process.pid

    @property
    def sentinel(self) -> int:
        """What :func:`multiprocessing.connection.wait` finds ready once the command has ended."""
        return self._process.sentinel

    @property
    def returncode(self) -> int | None:
        """The exit status, -N after the signal N, None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def run_module() -> None:
    """``python -m MODULE ...``, where ``sys.argv`` is ``[MODULE, MODULE, ...]``."""
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _begin(function, argv, environment, cwd, files, mounts, says_ready):
    """In the fork: become the command."""
    os.setsid()
    if mounts:
        with mounts.open() as namespace:
            assert ctypes.CDLL(None).setns(namespace.fileno(), 0) == 0
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python does
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    _redirect(*files)
    sys.argv = list(argv)
    sys.path[:0] = [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]
    multiprocessing.process._parent_process = None  # mpt follows the process that started it with multiprocessing
    main = types.ModuleType("__main__")
    main.__file__ = argv[0]  # which Lightning and joblib start again
    sys.modules["__main__"] = main
    says_ready.send(True)
    says_ready.close()
    module, _, name = function.partition(":")
    try:
        getattr(importlib.import_module(module), name)()
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()  # which multiprocessing leaves out


def _redirect(out, err):
    """Standard input is empty; what is printed, by forks and in C too, is added to files."""
    for target, path, flags in ((0, os.devnull, os.O_RDONLY), (1, out, WRITE), (2, err, WRITE)):
        source = os.open(path, flags, 0o644)
        os.dup2(source, target)
        os.close(source)
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
