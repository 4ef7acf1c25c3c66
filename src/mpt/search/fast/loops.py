"""The CPU's inner loops: what a search adds to a layer's step, each formula in one pass over memory.

    around       how many scores lie above and below a narrow window, and those inside    reads 4 bytes a weight
    at_least     the mask of a threshold                                                  reads 4, writes 1
    kept_sums    sum(m |w|) in float64                                                    reads 5
    binary       g m sign(w)                                                              reads 5, writes 4
    gradient     dL/db w sign(s), and its variants                                        reads 12, writes 4

They are plain Python, compiled by numba at the first large layer and kept on disk by it; :func:`run` calls them, on
the threads that torch computes with. Every one gives the bits of the torch and NumPy operations that are used where
numba, a dtype or a layout does not fit, and on any other device; :func:`arrays` says where they fit. None of them knows
a method: a formula of one's own takes their place.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

LARGE = 32_768  # weights; below, importing numba costs more than a short run could gain
PART = 131_072  # weights that one thread takes at the least, some 0.1 ms: more than it costs to hand them over
CHUNK = 8192  # entries that NumPy casts to float64 at a time: a chunk's sum is pairwise, chunks are added one by one
PAIRWISE = 128  # entries that NumPy's pairwise sum adds up in eight running sums
BLOCK = 64  # entries that `around` counts at a time
FITTING = (torch.float32, torch.bool)
F32, F64 = np.float32, np.float64


def arrays(*tensors: Tensor, least: int = LARGE) -> list[np.ndarray] | None:
    """The memory of ``tensors``, (n,) each and all in one order, if the loops fit them; None otherwise.

    They fit float32 (and bool) tensors of one shape, of ``least`` entries or more, on the CPU, contiguous or
    channels-last.
    """
    first = tensors[0]
    if first.numel() < least or torch.compiler.is_compiling() or not available():
        return None
    if any(not x.is_cpu or x.dtype not in FITTING or x.shape != first.shape for x in tensors):
        return None
    if all(x.is_contiguous() for x in tensors):
        return [x.detach().numpy().reshape(-1) for x in tensors]
    if first.dim() == 4 and all(x.is_contiguous(memory_format=torch.channels_last) for x in tensors):
        return [x.detach().numpy().transpose(0, 2, 3, 1).reshape(-1) for x in tensors]
    return None


def run(loop: Callable[..., Any], *arguments: Any) -> list[Any]:
    """``loop`` compiled, on each part of the arrays among ``arguments``, all (n,); what it returns for each, in order.

    Parts are as few as threads: between two of them a thread has to wait for Python's lock.
    """
    function, n = compiled(loop), arguments[0].size
    size = max(PART, CHUNK * math.ceil(n / CHUNK / threads()))
    if n <= size:
        return [function(*arguments)]
    todo, results, failed = iter(range(0, n, size)), [None] * -(-n // size), list[BaseException]()

    def work(_: Any = None) -> None:
        try:
            for start in todo:
                part = slice(start, start + size)
                results[start // size] = function(*(x[part] if isinstance(x, np.ndarray) else x for x in arguments))
        except BaseException as error:  # Ctrl-C too: what leaves a function that C has called is lost
            failed.append(error)

    if parallel := _parallel():
        parallel(_WORK(work), None, min(threads(), len(results)), 0)
    else:
        work()
    if failed:
        raise failed[0]
    return results


def threads() -> int:
    """How many take part: all that torch uses, or one where they cannot be asked."""
    return torch.get_num_threads() if _parallel() else 1


_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@cache
def _parallel() -> Any:
    """``GOMP_parallel(work, data, threads, flags)`` of the OpenMP that torch computes with; None if it is another.

    Threads of our own would have to wait for torch's, which spin for a while when they have computed something.
    """
    try:
        function = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD).GOMP_parallel
    except (OSError, AttributeError):  # not loaded; no such flag on this system
        return None
    function.argtypes, function.restype = (_WORK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return function


@cache
def available() -> bool:
    """Whether numba can be imported: it is slow to follow a new Python or NumPy."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


@cache
def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """``loop`` compiled, free of the GIL; from numba's cache on disk where there is one and it can be written."""
    from numba import njit

    try:
        return njit(nogil=True, cache=True)(loop)  # type: ignore[no-any-return]
    except RuntimeError:  # no directory that numba could write to
        return njit(nogil=True)(loop)  # type: ignore[no-any-return]


def around(
    x: np.ndarray, inside: np.ndarray, low: np.float32, high: np.float32, absolute: bool
) -> tuple[int, int, np.ndarray]:
    """Counts of ``x >= high`` and of ``x < low``, and those between, copied to the front of ``inside``.

    NaN is in none of them.
    """
    above, below, found = 0, 0, 0
    for start in range(0, x.size, BLOCK):
        block = x[start : start + BLOCK]
        a, b = np.int32(0), np.int32(0)  # counted apart, so that this loop is done eight at a time
        for i in range(block.size):
            value = abs(block[i]) if absolute else block[i]
            a += np.int32(value >= high)
            b += np.int32(value < low)
        above += int(a)
        below += int(b)
        if a + b < block.size:
            for i in range(block.size):
                value = abs(block[i]) if absolute else block[i]
                inside[found] = value  # to be overwritten unless it counts
                found += (value >= low) & (value < high)
    return above, below, inside[:found]


def at_least(x: np.ndarray, mask: np.ndarray, threshold: np.float32, absolute: bool) -> None:
    """``mask = x >= threshold``, of ``|x|`` if ``absolute``."""
    for i in range(x.size):
        value = abs(x[i]) if absolute else x[i]
        mask[i] = value >= threshold


def kept_sums(weight: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``sum(m |w|)`` of each whole chunk, to the bit as ``np.add.reduce(m |w|, dtype=np.float64)`` adds it up."""
    totals, values = np.empty(weight.size // CHUNK, F64), np.empty(PAIRWISE, F64)
    sums = np.empty(CHUNK // PAIRWISE, F64)
    for chunk in range(totals.size):
        for block in range(sums.size):
            first = CHUNK * chunk + PAIRWISE * block
            w, m = weight[first : first + PAIRWISE], mask[first : first + PAIRWISE]
            for i in range(PAIRWISE):
                values[i] = F64(abs(w[i]) * F32(m[i]))
            r0, r1, r2, r3, r4, r5, r6, r7 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for i in range(0, PAIRWISE, 8):
                r0 += values[i]
                r1 += values[i + 1]
                r2 += values[i + 2]
                r3 += values[i + 3]
                r4 += values[i + 4]
                r5 += values[i + 5]
                r6 += values[i + 6]
                r7 += values[i + 7]
            sums[block] = ((r0 + r1) + (r2 + r3)) + ((r4 + r5) + (r6 + r7))
        left = sums.size
        while left > 1:
            left //= 2
            for i in range(left):
                sums[i] = sums[2 * i] + sums[2 * i + 1]
        totals[chunk] = sums[0]
    return totals


def binary(weight: np.ndarray, mask: np.ndarray, out: np.ndarray, gain: np.float32) -> None:
    """``out = g m sign(w)``."""
    for i in range(weight.size):
        value = np.copysign(gain, weight[i] + F32(0))  # -0.0 + 0.0 = +0.0, so that sign(0) = +1
        out[i] = value if mask[i] else F32(0)


def gradient(
    grad: np.ndarray,
    weight: np.ndarray,
    scores: np.ndarray,
    out: np.ndarray,
    magnitude: np.float32,
    signs_only: bool,
    absolute: bool,
) -> None:
    """``out = dL/db w`` or, with ``signs_only``, ``dL/db magnitude sign(w)``; times ``sign(s)`` if ``absolute``."""
    for i in range(grad.size):
        factor = np.copysign(magnitude, weight[i] + F32(0)) if signs_only else weight[i]
        sign = np.copysign(F32(1), scores[i] + F32(0)) if absolute else F32(1)
        out[i] = grad[i] * factor * sign
