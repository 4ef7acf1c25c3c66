"""Running the console commands: in this process where it is enough, as a new process where it matters."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import signal
import sys
import tempfile
import time
import tomllib
import warnings
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from hydra.core.global_hydra import GlobalHydra

from mpt.run.settings import Settings
from tests.forked import Forked

COMMANDS = Path(sys.executable).parent
SCRIPTS = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["scripts"]
SMALL = (  # a search of a few seconds
    "model=conv2",
    "data=synthetic",
    "data.image_size=8",
    "data.num_images=320",
    "data.num_classes=4",
    "width=0.125",
    "batch=32",
    "epochs=3",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
)


class Done(NamedTuple):
    """A finished command."""

    returncode: int
    stdout: str
    stderr: str


def command(name, *arguments, cwd, check=True, environment=None, streams=None):
    """Run the console function of ``mpt-<name>`` in ``cwd``, in this process: a process would import torch first."""
    module, _, function_name = SCRIPTS[f"mpt-{name}"].partition(":")
    function = getattr(importlib.import_module(module), function_name)
    out, err = streams or (io.StringIO(), io.StringIO())
    code, before = 0, dict(os.environ)
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", [f"mpt-{name}", *arguments]),
        mock.patch.dict(os.environ, environment or {}),
        warnings.catch_warnings(),
    ):
        for variable in [key for key in before if key.startswith("MPT_")]:
            del os.environ[variable]
        try:
            function()
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
            err.write("" if isinstance(exit_.code, int) else f"{exit_.code}\n")
        finally:
            GlobalHydra.instance().clear()
    if streams:
        return Done(code, "", "")
    if check:
        assert code == 0, out.getvalue() + err.getvalue()
    return Done(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def terminal(columns=100):
    """A pseudo-terminal: yields a text stream to write to, and a function that returns all that arrived so far.

    The function is complete after the block.
    """
    import fcntl
    import pty
    import struct
    import termios
    import threading

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    parts = []

    def read():
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while part := os.read(master, 65536):
                parts.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with (
            os.fdopen(slave, "w", encoding="utf-8", buffering=1) as stream,
            mock.patch.dict(os.environ, TERM="xterm", COLUMNS=str(columns), LINES="30"),
        ):
            yield stream, lambda: b"".join(parts).decode()
    finally:
        reader.join()
        os.close(master)


def on_terminal(name, *arguments, cwd, columns=100):
    """All that ``mpt-<name>``, run by :func:`command`, writes to a terminal: its phases and what it prints."""
    with terminal(columns) as (stream, written):
        done = command(name, *arguments, cwd=cwd, streams=(stream, stream))
    assert done.returncode == 0, written()
    return written()


def process(name, *arguments, cwd):
    """Run ``mpt-<name>`` as a process of its own in ``cwd``: for kills, and for several processes."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        code = fork(name, *arguments, cwd=cwd, out=out, err=err).wait(250)
        return Done(code, out.read_text(), err.read_text())


def fork(name, *arguments, cwd, out, err=None):
    """Start ``mpt-<name>`` as a process of its own, which leads a session and adds its output to files."""
    return Forked(COMMANDS / f"mpt-{name}", SCRIPTS[f"mpt-{name}"], arguments, cwd=cwd, out=out, err=err or out)


def read_result(directory):
    return json.loads((Path(directory) / "result.json").read_text())


def compose(*overrides):
    """The checked settings of ``mpt-train *overrides``."""
    from mpt.run.compose import compose, settings_of

    return settings_of(compose("train", overrides, Settings), Settings)


def results(folder):
    return {path.parent.name: json.loads(path.read_text()) for path in Path(folder).glob("*/result.json")}


def start_sweep(folder, *arguments):
    return fork("train", *arguments, cwd=folder, out=folder / "log")


def hear_signals():
    """In a new process: signals have their effect, even if this one ignores them, as with nohup."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def left_behind(folder, *, seconds=10):
    """Command lines of processes that still work in ``folder`` after ``seconds``."""
    end = time.monotonic() + seconds
    while (commands := _working_in(folder)) and time.monotonic() < end:
        time.sleep(0.1)
    return commands


def _working_in(folder):
    commands = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cwd").readlink() == folder:
                commands.append((path / "cmdline").read_text())
        except OSError:
            continue
    return commands
