"""The inner loops of a search on the CPU: each formula in one pass over memory.

    loop             computes                                                     bytes per weight
    around           the scores inside a narrow window, and counts of the others  reads 4
    at_least         the mask of a threshold                                      reads 4, writes 1
    kept_sums        sum(m |w|) in float64                                        reads 5
    binary_weight    g m sign(w)                                                  reads 5, writes 4
    gradient         dL/db w sign(s), and its variants                            reads 12, writes 4

The loops are plain Python. Numba compiles them at the first large layer and keeps the result on disk; :func:`run` calls
them on the threads that torch computes with. Each loop gives the same bits as the torch and NumPy operations that run
in all other cases: no numba, another dtype or layout, another device. :func:`arrays` decides. The loops know no method:
a method that overrides a formula bypasses them.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

LARGE = 32_768  # weights; below, importing numba costs more than a short run could gain
PART = 131_072  # least weights per thread: about 0.1 ms of work, more than starting a thread costs
CHUNK = 8192  # entries that NumPy casts to float64 at a time: it sums a chunk pairwise and adds chunks one by one
PAIRWISE = 128  # entries that NumPy's pairwise sum adds in eight running sums
LANES = 16  # entries that are compared at a time, and whose signs share a word
BLOCK = 64  # entries that `around` counts at a time
FITTING = (torch.float32, torch.bool)
F32, F64 = np.float32, np.float64


def arrays(*tensors: Tensor, least: int = LARGE) -> list[np.ndarray] | None:
    """The memory of ``tensors``, (n,) each and all in one order, if the loops support them; None otherwise.

    They support float32 (and bool) tensors of one shape with at least ``least`` entries, on the CPU, all contiguous or
    all channels-last.
    """
    return in_one_order(*tensors) if support(tensors, least=least) else None


def support(tensors: Sequence[Tensor], *, least: int = LARGE) -> bool:
    """Whether the loops support ``tensors``, as :func:`arrays` says."""
    shape = tensors[0].shape
    if shape.numel() < least or torch.compiler.is_compiling() or not available():
        return False
    for x in tensors:
        if not x.is_cpu or x.dtype not in FITTING or x.shape != shape:
            return False
    return have_one_order(tensors)


def in_one_order(*tensors: Tensor) -> list[np.ndarray] | None:
    """The memory of CPU ``tensors`` of one shape, in dtypes of NumPy, (n,) each; None if their orders differ."""
    if all(x.is_contiguous() for x in tensors):
        return [x.detach().numpy().reshape(-1) for x in tensors]
    if tensors[0].dim() == 4 and all(x.is_contiguous(memory_format=torch.channels_last) for x in tensors):
        return [x.detach().numpy().transpose(0, 2, 3, 1).reshape(-1) for x in tensors]
    return None


def have_one_order(tensors: Sequence[Tensor]) -> bool:
    """Whether :func:`in_one_order` gives the memory of ``tensors``."""
    if all(x.is_contiguous() for x in tensors):
        return True
    return tensors[0].dim() == 4 and all(x.is_contiguous(memory_format=torch.channels_last) for x in tensors)


def run(loop: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Run ``loop``, compiled, on each part of the arrays, all (n,), among ``arguments``; its results in order.

    There is one part per thread, because between two parts a thread has to wait for Python's lock.
    """
    function, n = compiled(loop), arguments[0].size
    size = part_size(n)
    if n <= size:
        return [function(*arguments)]
    parts = [slice(start, start + size) for start in range(0, n, size)]
    return side_by_side([[x[part] if isinstance(x, np.ndarray) else x for x in arguments] for part in parts], function)


def part_size(n: int) -> int:
    """Entries of each part but the last into which :func:`run` divides ``n``."""
    return max(PART, CHUNK * math.ceil(n / CHUNK / threads()))


def side_by_side(calls: Sequence[Sequence[Any]], function: Callable[..., Any]) -> list[Any]:
    """The results of ``function``, which runs without the GIL, for each of ``calls``, its arguments; on the threads."""
    todo, results, errors = iter(enumerate(calls)), [None] * len(calls), list[BaseException]()

    def work(_: Any = None) -> None:
        try:
            for place, arguments in todo:
                results[place] = function(*arguments)
        except BaseException as error:  # Ctrl-C too: an exception cannot pass through the C code that calls this
            errors.append(error)

    if (start := parallel()) and len(calls) > 1:
        start(WORK(work), None, min(threads(), len(results)), 0)
    else:
        work()
    if errors:
        raise errors[0]
    return results


def threads() -> int:
    """Number of threads: as many as torch uses, or one if its OpenMP cannot be called."""
    return torch.get_num_threads() if parallel() else 1


WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)  # what threads call; a cast of one would keep its memory in a circle


@cache
def parallel() -> Any:
    """``GOMP_parallel(work, data, threads, flags)`` of GNU's OpenMP; None if torch computes with another.

    Separate threads would compete with torch's, which keep spinning for a while after their work.
    """
    try:
        function = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD).GOMP_parallel
    except (OSError, AttributeError):  # not loaded; no such flag on this system
        return None
    function.argtypes, function.restype = (WORK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return function


@cache
def available() -> bool:
    """Whether numba is there, which often lags behind new releases of Python and NumPy, and may compile."""
    try:
        import numba
    except ImportError:
        return False
    return not numba.config.DISABLE_JIT  # type: ignore[attr-defined]


@cache
def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """``loop`` compiled to run without the GIL; from numba's cache on disk if numba can write one."""
    from numba import njit

    from mpt.search.fast.kept import KeptLoop

    dispatcher: Any = njit(nogil=True)(loop)
    with suppress(RuntimeError):  # numba can write to no directory
        dispatcher._cache = KeptLoop(loop)
    return dispatcher  # type: ignore[no-any-return]


def around(
    x: np.ndarray, inside: np.ndarray, low: np.float32, high: np.float32, absolute: bool
) -> tuple[int, int, np.ndarray]:
    """Count the entries ``x >= high`` and ``x < low``, and copy the entries between to the front of ``inside``.

    NaN is in none of the three groups.
    """
    above, below, copied = 0, 0, 0
    for start in range(0, x.size, BLOCK):
        block = x[start : start + BLOCK]
        a, b = np.int32(0), np.int32(0)  # counts of this block: 32 bits, so that eight entries are counted at a time
        for i in range(block.size):
            value = abs(block[i]) if absolute else block[i]
            a += np.int32(value >= high)
            b += np.int32(value < low)
        above += int(a)
        below += int(b)
        if a + b < block.size:
            for i in range(block.size):
                value = abs(block[i]) if absolute else block[i]
                inside[copied] = value  # the next entry overwrites it unless it is in the window
                copied += (value >= low) & (value < high)
    return above, below, inside[:copied]


def at_least(x: np.ndarray, mask: np.ndarray, threshold: np.float32, absolute: bool) -> None:
    """``mask = x >= threshold``, of ``|x|`` if ``absolute``."""
    for i in range(x.size):
        value = abs(x[i]) if absolute else x[i]
        mask[i] = value >= threshold


def kept_sums(weight: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``sum(m |w|)`` of each whole chunk, with the bits of ``np.add.reduce(m |w|, dtype=np.float64)``."""
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
        pairs = sums.size
        while pairs > 1:
            pairs //= 2
            for i in range(pairs):
                sums[i] = sums[2 * i] + sums[2 * i + 1]
        totals[chunk] = sums[0]
    return totals


def binary_weight(weight: np.ndarray, mask: np.ndarray, out: np.ndarray, gain: np.float32) -> None:
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
