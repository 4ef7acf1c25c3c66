"""Threads that share a batch with the thread that calls."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

Part = TypeVar("Part")


class Workers:
    """``count`` threads beside the calling one.

    They begin on other processors than the caller's. In a virtual machine Linux may take a processor at rest for one
    that is not to be had: a thread that wakes up then waits on the caller's, for up to a tenth of a second.

    Attributes:
        ids: of the threads that have begun, by which the system knows them.
    """

    def __init__(self, count: int) -> None:
        ids = self.ids = list[int]()
        self._count = count
        self._pool = ThreadPoolExecutor(count, "mpt.compile", lambda: ids.append(threading.get_native_id()))
        self._avoid = getattr(os, "sched_setaffinity", None)  # of Linux alone
        self._processor = ctypes.CDLL(None).sched_getcpu if self._avoid else None
        self._placed: tuple[int, set[int], int] | None = None

    def share(self, work: Callable[[Part], None], parts: Sequence[Part]) -> None:
        """``work`` of each part: who has time takes the next one, because another program may hold up a thread."""
        left = SimpleQueue[Part]()
        for part in parts:
            left.put(part)

        def take() -> None:
            with suppress(Empty):
                while True:
                    work(left.get_nowait())

        self._place()
        others = [self._pool.submit(take) for _ in range(min(self._count, len(parts) - 1))]
        take()
        for other in others:
            if not other.cancel():  # it has begun
                other.result()

    def _place(self) -> None:
        """Keep the threads off the caller's processor, where there is another."""
        if self._avoid is None or self._processor is None:
            return
        own, allowed = self._processor(), os.sched_getaffinity(0)
        if (place := (own, allowed, len(self.ids))) != self._placed and len(allowed) > 1:
            for thread in self.ids:
                with suppress(OSError):  # a system may forbid it
                    self._avoid(thread, allowed - {own})
            self._placed = place
