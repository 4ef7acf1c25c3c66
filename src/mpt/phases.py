"""What a command is doing, as the last line of a terminal: ``⠹ importing torch  3 s``.

A thread redraws the line, so that a phase that takes long is seen to be alive, also while C code runs. The first block
of :func:`shown` starts it and its end removes the line; what is printed in between stands above the line. Nothing is
drawn in a pipe, by the other processes of a run, and within a run of a sweep, for which the sweep speaks.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from mpt.processes import is_first
from mpt.words import duration

T = TypeVar("T")

_PER_SECOND = 4  # redraws; one takes half a millisecond
_SILENT = "MPT_SILENT"  # set, also for child processes, while runs of a sweep compute


class _State:
    """The line of this process."""

    text = ""
    since = 0.0  # when this text came
    live: Any = None  # rich.live.Live while the line is shown
    spinner: Any = None
    width: Callable[[], int] = lambda: 80  # columns of the terminal
    above: Callable[[], Any] | None = None  # returns what rich draws above the line
    streams: tuple[Any, Any] | None = None  # stdout and stderr, from before the line


@contextlib.contextmanager
def shown(text: str, *, wanted: bool = True) -> Iterator[None]:
    """Show ``text`` during the block, and afterwards the text of the block around it.

    Args:
        text: what the command does, as in ``importing torch``.
        wanted: False shows nothing.
    """
    before = _State.text
    starts = wanted and _State.live is None and _is_terminal()
    if starts:
        _start()
    if wanted:
        say(text)
    try:
        yield
    finally:
        if starts:
            stop()
        elif wanted:
            say(before)


def say(text: str) -> None:
    """Name the next phase, and draw it at once: what follows may hold the interpreter."""
    update(text)
    if _State.live is not None:
        _State.live.refresh()


@contextlib.contextmanager
def importing(text: str = "importing torch") -> Iterator[None]:
    """Show ``text`` for a block that imports packages, without the collector of circles: what comes there stays.

    It would look through all objects a thousand times, a quarter of the time that torch and Lightning take.
    """
    say(text)
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.unfreeze()  # both: among the objects that it looks at least often
        if was_enabled:
            gc.enable()


def update(text: str) -> None:
    """Replace the text of the line, which the next redraw shows; for every step, as it costs nothing."""
    _State.text, _State.since = text, time.monotonic()


def is_shown() -> bool:
    """True while this process shows a line."""
    return _State.live is not None


def stop() -> None:
    """Remove the line."""
    live, _State.live = _State.live, None
    if live is not None:
        live.stop()
    _State.text, _State.above, _State.streams = "", None, None


@contextlib.contextmanager
def counted(text: str, total: int, *, wanted: bool = True) -> Iterator[Callable[..., None]]:
    """Show ``text: 3 of 12, 40 seconds left`` during the block; yields the function that counts one more, or n more."""
    done, start = 0, time.monotonic()

    def advance(number: int = 1) -> None:
        nonlocal done
        done += number
        left = (time.monotonic() - start) * (total - done) / done if done else 0.0
        _State.text = f"{text}: {done:,} of {total:,}" + (f", {duration(left)} left" if left >= 1 else "")

    with shown(f"{text}: 0 of {total:,}", wanted=wanted):
        yield advance if wanted else lambda number=1: None


def track(items: Iterable[T], text: str, total: int, *, wanted: bool = True) -> Iterator[T]:
    """Yield ``items``, ``total`` in number, and count them in the line."""
    with counted(text, total, wanted=wanted) as advance:
        for item in items:
            yield item
            advance()


@contextlib.contextmanager
def drawn_above(render: Callable[[], Any]) -> Iterator[None]:
    """During the block, draw above the line what ``render`` returns for rich, called at each redraw."""
    before, _State.above = _State.above, render
    try:
        yield
    finally:
        _State.above = before


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """In the block, and in the processes that it starts, :func:`tell` prints nothing: a sweep speaks for its runs."""
    before = os.environ.get(_SILENT)
    os.environ[_SILENT] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_SILENT, None)


def is_silent() -> bool:
    """True within a run of a sweep."""
    return _SILENT in os.environ


def tell(text: str) -> None:
    """Print ``text`` unless a sweep speaks for this run."""
    if not is_silent():
        print(text, flush=True)


def note(text: str, directory: Path) -> None:
    """Print a note about the run in ``directory``, which a sweep has to name."""
    print(f"note      {directory.name + ': ' if is_silent() else ''}{text}", flush=True)


def _is_terminal() -> bool:
    """True if this process may draw: the first one of a command on a terminal."""
    apart = multiprocessing.parent_process() is not None or is_silent() or not is_first()
    return not apart and sys.stderr.isatty()


def _start() -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.spinner import Spinner

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    _State.spinner = Spinner("dots" if console.encoding.startswith("utf") else "line")
    _State.width, _State.streams = lambda: console.width, (sys.stdout, sys.stderr)
    _State.live = Live(
        console=console,
        refresh_per_second=_PER_SECOND,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
        get_renderable=_render,
    )
    _State.live.start()


def _render() -> Any:
    from rich.console import Group
    from rich.text import Text

    passed = time.monotonic() - _State.since
    text = _State.text + (f"  {duration(passed)}" if passed >= 1 else "")
    line = Text(text)
    line.truncate(_State.width() - 4, overflow="ellipsis")
    _State.spinner.update(text=line)
    return _State.spinner if _State.above is None else Group(_State.above(), _State.spinner)


def _forget() -> None:
    """In a forked child, such as a process that loads pictures: the line is its parent's."""
    if _State.streams is not None:
        sys.stdout, sys.stderr = _State.streams
        _State.live = _State.streams = None


os.register_at_fork(after_in_child=_forget)
