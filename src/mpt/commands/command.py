"""A console command from a function of its arguments: its help, its version, its line on the terminal, its errors."""

from __future__ import annotations

import atexit
import functools
import gc
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from mpt.errors import run_command
from mpt.files import version
from mpt.phases import shown
from mpt.startup import end

Command = Callable[[list[str]], None]
VARIABLE = "_MPT_COMPLETE"  # set by a shell that asks how a command line goes on


def command(name: str, text: str, *, quick: bool = False) -> Callable[[Command], Callable[[], None]]:
    """Decorator: the console command ``name`` from a function of its arguments; ``text`` in help.py is its help.

    A terminal shows what the command is doing, unless it is ``quick``.
    """

    def decorate(function: Command) -> Callable[[], None]:
        def work(arguments: list[str]) -> None:
            if not {"-h", "--help"}.isdisjoint(arguments):  # --hydra-help is left to Hydra
                print(help_text(text, arguments))
            elif "--version" in arguments:
                print(f"{name} {version()}")
            else:
                with shown("importing", wanted=not quick):
                    function(arguments)

        @functools.wraps(function)
        def main() -> None:
            start(name, work)

        return main

    return decorate


def start(name: str, function: Command) -> None:
    """Run the console command ``name``, or answer a shell that completes its command line."""
    _open_closed_streams()
    if VARIABLE not in os.environ:
        atexit.register(gc.freeze)  # or Python would look through all that the packages made once more: a second
        try:
            run_command(name, function)
        finally:
            if signal.getsignal(signal.SIGINT) is end:
                signal.signal(signal.SIGINT, signal.SIG_DFL)  # what Ctrl-C cuts short from here on needs no word
        return
    from mpt.commands.completion import answer

    print(answer(name, function, variable=VARIABLE))


def _open_closed_streams() -> None:
    """Let a stream that the parent closed (``>&-``) be the null device: the next open file would take its place."""
    for number, stream, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, stream) is None:
            null = Path(os.devnull).open(mode)  # noqa: SIM115
            if null.fileno() == number:  # the lowest that is free
                os.set_inheritable(number, True)
            setattr(sys, stream, null)
            setattr(sys, f"__{stream}__", null)


def help_text(text: str, arguments: list[str]) -> str:
    """The help that the function ``text`` of help.py writes, or the parts of it that ``arguments`` name."""
    from mpt.commands import help, page  # with the schemas of all commands: ten milliseconds that a run has no use for

    return page.show(getattr(help, text)(), arguments)
