"""What the C library does with memory that is freed: in training, keep it for the next step."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # names of mallopt's parameters, malloc.h
_MOST = 32 * 2**20  # glibc's own thresholds grow to this and, where memory is given back, to twice as much


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside, glibc gives no freed memory back to the system (elsewhere nothing changes).

    A tensor of many megabytes is otherwise new memory whenever it is made, which the system clears page by page: of a
    training step of Conv2 on a CPU that is a fifth. The process stays as large as its largest step.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)  # never
    try:
        yield
    finally:
        libc.mallopt(_MMAP_MAX, 65536)
        libc.mallopt(_MMAP_THRESHOLD, _MOST)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _MOST)
        libc.malloc_trim(0)


@cache
def _glibc() -> Any:
    """The C library, if it is glibc."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.gnu_get_libc_version  # noqa: B018
    except (OSError, AttributeError):
        return None
    return libc
