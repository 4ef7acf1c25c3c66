"""Signals: an interruption is an outcome of a command, with one sentence and an exit status of its own.

Within :func:`handled` the first of :data:`SIGNALS` raises :class:`Interrupted` in the main thread, at any moment. A
library that swallows it gets it again, and a command that has not ended after :data:`PATIENCE` seconds, because it
waits in C, is ended. Files are written whole or not at all (:mod:`mpt.files`), so any moment is a good one.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
INTERRUPTED = "interrupted"  # the status of a run that a signal ended, and the first word of its reason
PATIENCE = 20  # seconds from a signal to the end of the process; SLURM kills after 30
_AGAIN = 3  # seconds after which a signal whose exception was swallowed is raised again


class Interrupted(BaseException):
    """A signal ended the command. No Exception, so that nobody takes it for an error of the run."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"{INTERRUPTED} by {name(signum)}")
        self.signum = int(signum)

    @property
    def status(self) -> int:
        """The exit status that shells give to a process that this signal ended."""
        return 128 + self.signum


class _State:
    """What this process knows about its interruption."""

    owner = 0  # the process that handles signals; 0: none does
    received = 0  # the first signal, 0 before it
    unwinding = False  # the exception arrived, and the command is ending
    mask: set[int] | None = None  # of signals, from before a fork: a child must not answer for its parent
    describe: Callable[[], str] | None = None
    finish: Callable[[int], None] | None = None  # how a command ends that does not end by itself


def name(signum: int) -> str:
    """``SIGTERM`` and the like."""
    return signal.Signals(signum).name


@contextlib.contextmanager
def handled(finish: Callable[[int], None] | None = None) -> Iterator[bool]:
    """In the block, a signal raises :class:`Interrupted`; yields False where an outer block handles it already.

    Args:
        finish: prints the last words, of the signal, of a command that does not end by itself.
    """
    if _State.owner == os.getpid() or threading.current_thread() is not threading.main_thread():
        yield False
        return
    _State.owner, _State.received, _State.unwinding, _State.finish = os.getpid(), 0, False, finish
    _State.describe = None
    # what the parent ignores stays ignored, as with nohup
    before = {number: handler for number in SIGNALS if (handler := signal.getsignal(number)) != signal.SIG_IGN}
    pipe = os.pipe()
    for end in pipe:
        os.set_blocking(end, end == pipe[0])
    wakeup = signal.set_wakeup_fd(pipe[1], warn_on_full_buffer=False)
    for number in before:
        signal.signal(number, _raise)
    watch = threading.Thread(target=_watch, args=(pipe[0], frozenset(map(int, before))), name="signals", daemon=True)
    watch.start()
    try:
        yield True
    finally:
        if _State.received:  # the process ends, and the thread watches that it does
            _State.unwinding = True
        else:
            _State.owner = 0
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)
            signal.set_wakeup_fd(wakeup)
            os.write(pipe[1], b"\0")
            watch.join()
            os.close(pipe[0])
            os.close(pipe[1])


def _raise(signum: int, frame: FrameType | None) -> None:
    _State.received = _State.received or int(signum)
    if not _State.unwinding:
        raise Interrupted(_State.received)


def _watch(pipe: int, watched: frozenset[int]) -> None:
    """A thread, as the main one may wait in C: hears of a signal at once, repeats it, and at last ends the process."""
    while (byte := os.read(pipe, 1)[0]) not in watched:
        if byte == 0:
            return
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        time.sleep(_AGAIN)
        if not _State.unwinding:
            signal.pthread_kill(threading.main_thread().ident or 0, byte)
    if _State.finish is not None:
        with contextlib.suppress(Exception):
            _State.finish(byte)
    os._exit(128 + byte)


def _block() -> None:
    if _State.owner:
        _State.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _unblock() -> None:
    if _State.mask is not None:
        mask, _State.mask = _State.mask, None
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _forget() -> None:
    """In a forked child, such as a process that loads data: signals act as if nobody handled them."""
    if _State.owner:
        _State.owner = 0
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            if signal.getsignal(number) is _raise:
                signal.signal(number, signal.SIG_DFL)
    _unblock()


os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_forget)


def unwind() -> None:
    """The interruption arrived: later signals disturb the clean-up no more."""
    _State.unwinding = True


def describe_with(function: Callable[[], str]) -> None:
    """From now on ``function`` returns what follows "interrupted" in the command's last sentence."""
    _State.describe = function


def description() -> str | None:
    """What follows "interrupted": how far the command came and how to go on; None if nobody said it."""
    return _State.describe() if _State.describe else None


def cause(error: BaseException, *, patience: float = 0.0) -> BaseException:
    """What ended the command: ``error``, or the interruption of which ``error`` is an effect.

    Args:
        error: that was raised.
        patience: seconds to wait for the signal, where another process may have died of it first.
    """
    if isinstance(error, Interrupted):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(signal.SIGINT)
    try:
        end = time.monotonic() + patience
        while not _State.received and time.monotonic() < end:
            time.sleep(0.05)
    except Interrupted as signalled:
        return signalled
    if _State.received:
        return Interrupted(_State.received)
    if isinstance(error, BrokenPipeError) and _reader_left():
        return Interrupted(signal.SIGPIPE)
    return error


def _reader_left() -> bool:
    """True if nobody reads our output any more, as in ``mpt-train ... | head -1``."""
    poll = select.poll()
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            with contextlib.suppress(ValueError, OSError):
                poll.register(stream.fileno(), select.POLLOUT)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
