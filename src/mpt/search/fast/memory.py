"""Keeps memory that a search needs in every step, instead of returning it to the system.

The memory of a large tensor goes back to the system when the tensor is freed, and the system clears every page before
it hands the memory out again. That takes longer than the formulas of the search. Two remedies:

* :func:`empty_like` keeps the memory of a layer's ticket weight and score gradient for as long as the layer's weight
  lives. It lends that memory again once nothing uses it: no autograd graph, view, optimizer or user. Each loan is a
  NumPy array over the memory, which the storage of the tensor over it keeps alive. So the loan has ended when the weak
  reference to the array is dead.
* :func:`freed_memory_kept` tells the C library to keep all freed memory while a network is trained. Then only the
  largest tensors are lent memory, which stays where it is from step to step.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mpt.search.fast.loops import LARGE

LARGEST = 10 * LARGE  # entries; below, the C library is quicker than a loan where it keeps freed memory
MOST = 2  # loans per tensor; older memory that is still in use is left to its user
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # mallopt's parameters, malloc.h
_MOST_BYTES = 32 * 2**20  # bytes; glibc's own thresholds grow to this and, where memory is returned, to twice as much


class Loan(NamedTuple):
    """Memory, and a reference to the array through which a tensor uses it."""

    memory: Tensor
    user: weakref.ref[np.ndarray]


_keeping = False  # whether the C library keeps freed memory

# identity of a tensor -> the tensor, and the loans of tensors like it, oldest first
_loans: dict[int, tuple[weakref.ref[Tensor], list[Loan]]] = {}


def empty_like(x: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    """:func:`torch.empty_like`; for a large tensor on the CPU, in memory from an earlier loan if that has ended.

    While the C library keeps freed memory, large means :data:`LARGEST`.
    """
    if _keeping and x.numel() < LARGEST:
        return torch.empty_like(x, dtype=dtype)
    dtype = dtype or x.dtype
    plain = type(x) in (Tensor, nn.Parameter) and x.is_cpu and x.numel() >= LARGE
    if not plain or torch.compiler.is_compiling():
        return torch.empty_like(x, dtype=dtype)
    owner, loans = _loans.get(id(x), (None, []))
    if owner is None or owner() is not x:
        loans = list[Loan]()
        _loans[id(x)] = weakref.ref(x, partial(_forget, id(x))), loans
    memory = _free(loans, x, dtype)
    array = (memory.view(torch.int16) if dtype == torch.bfloat16 else memory).numpy()  # NumPy has no bfloat16
    loans.append(Loan(memory, weakref.ref(array)))
    lent = torch.from_numpy(array)
    return lent.view(dtype) if dtype == torch.bfloat16 else lent


def _forget(key: int, owner: weakref.ref[Tensor]) -> None:
    """Return the memory of a tensor that is gone, unless its identity is that of another by now."""
    if key in _loans and _loans[key][0] is owner:
        del _loans[key]


def _free(loans: list[Loan], x: Tensor, dtype: torch.dtype) -> Tensor:
    """Memory like ``x`` of ``dtype``: an ended loan's, which leaves ``loans``, or else new; the newest loans stay."""
    for _ in range(len(loans)):
        loan = loans.pop(0)  # so that no other thread lends it too
        if loan.user() is not None:
            loans.append(loan)
        elif loan.memory.shape == x.shape and loan.memory.stride() == x.stride() and loan.memory.dtype == dtype:
            return loan.memory
    del loans[: max(0, len(loans) - MOST + 1)]
    return torch.empty_like(x, dtype=dtype).detach()


def entries(x: Tensor) -> Tensor:
    """All entries of a CPU tensor in the order of its memory, (n,), in a dtype that NumPy knows."""
    x = x.detach() if x.dtype in (torch.float32, torch.float64, torch.bool) else x.detach().float()
    dense = x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
    return x.as_strided((x.numel(),), (1,)) if dense else x.flatten()


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside, glibc returns no freed memory to the system; with another C library nothing changes.

    Otherwise the system clears the memory of each large tensor page by page, which takes a fifth of a training step of
    Conv2 on a CPU. Inside, the process stays as large as its largest step.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    global _keeping
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)  # never
    _keeping = True
    try:
        yield
    finally:
        _keeping = False
        libc.mallopt(_MMAP_MAX, 65536)
        libc.mallopt(_MMAP_THRESHOLD, _MOST_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _MOST_BYTES)
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
