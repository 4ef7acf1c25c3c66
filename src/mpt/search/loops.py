"""The CPU's inner loops: what a search adds to a layer's step, each formula in one pass over memory.

    around       how many scores lie above and below a narrow window, and those inside    reads 4 bytes a weight
    at_least     the mask of a threshold                                                  reads 4, writes 1
    kept_sum     sum(m |w|) in float64                                                    reads 5
    binary       g m sign(w)                                                              reads 5, writes 4
    gradient     dL/db w sign(s), and its variants                                        reads 12, writes 4

They are plain Python, compiled by numba at the first large layer (:func:`compiled`) and kept on disk by it. Every one
gives the bits of the torch and NumPy operations that are used where numba, a dtype or a layout does not fit, and on any
other device; :func:`arrays` says where they fit. None of them knows a method: a formula of one's own replaces them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

LARGE = 32_768  # weights; below, importing numba costs more than a short run could gain
CHUNK = 8192  # entries that NumPy casts to float64 at a time: a chunk's sum is pairwise, chunks are added one by one
PAIRWISE = 128  # entries that NumPy's pairwise sum adds up in eight running sums
WINDOW = 64  # entries of which `around` copies either all candidates or none
F32, F64 = np.float32, np.float64


@cache
def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """``loop`` compiled, free of the GIL; from numba's cache on disk where there is one and it can be written."""
    from numba import njit

    try:
        return njit(nogil=True, cache=True)(loop)  # type: ignore[no-any-return]
    except RuntimeError:  # no directory that numba could write to
        return njit(nogil=True)(loop)  # type: ignore[no-any-return]


@cache
def available() -> bool:
    """Whether numba can be imported: it is slow to follow a new Python or NumPy."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


def arrays(*tensors: Tensor) -> list[np.ndarray] | None:
    """The memory of ``tensors``, (n,) each and all in one order, if the loops fit them; None otherwise.

    They fit large float32 (and bool) tensors of one shape on the CPU that are contiguous or channels-last.
    """
    first = tensors[0]
    if first.numel() < LARGE or any(x.device.type != "cpu" or x.shape != first.shape for x in tensors):
        return None
    if any(x.dtype not in (torch.float32, torch.bool) for x in tensors) or torch.compiler.is_compiling():
        return None
    contiguous = all(x.is_contiguous() for x in tensors)
    if not contiguous and not (
        first.dim() == 4 and all(x.is_contiguous(memory_format=torch.channels_last) for x in tensors)
    ):
        return None
    return [x.detach().as_strided((x.numel(),), (1,)).numpy() for x in tensors] if available() else None


def around(x: np.ndarray, low: np.float32, high: np.float32, absolute: bool, inside: np.ndarray) -> tuple[int, int, int]:
    """Counts of ``x >= high``, of ``x < low`` and of what lies between, which is copied to ``inside`` as far as it fits.

    ``inside`` needs ``WINDOW`` entries more than are to be found. NaN is in none of the counts.
    """
    above, below, found = 0, 0, 0
    for start in range(0, x.size, WINDOW):
        part = x[start : start + WINDOW]
        a, b = np.int32(0), np.int32(0)  # counted apart, so that this loop is done eight at a time
        for i in range(part.size):
            value = abs(part[i]) if absolute else part[i]
            a += np.int32(value >= high)
            b += np.int32(value < low)
        above += a
        below += b
        if a + b < part.size and found + WINDOW <= inside.size:
            for i in range(part.size):
                value = abs(part[i]) if absolute else part[i]
                inside[found] = value
                found += (value >= low) & (value < high)
    return above, below, found


def at_least(x: np.ndarray, threshold: np.float32, absolute: bool, mask: np.ndarray) -> None:
    """``mask = x >= threshold``, of ``|x|`` if ``absolute``."""
    for i in range(x.size):
        value = abs(x[i]) if absolute else x[i]
        mask[i] = value >= threshold


def kept_sum(weight: np.ndarray, mask: np.ndarray) -> float:
    """``sum(m |w|)`` of whole chunks, added in the order of ``np.add.reduce(m |w|, dtype=np.float64)``."""
    total, values, sums = 0.0, np.empty(PAIRWISE, F64), np.empty(CHUNK // PAIRWISE, F64)
    for start in range(0, weight.size, CHUNK):
        for block in range(sums.size):
            first = start + PAIRWISE * block
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
        total += sums[0]
    return total


def binary(weight: np.ndarray, mask: np.ndarray, gain: np.float32, out: np.ndarray) -> None:
    """``out = g m sign(w)``."""
    for i in range(weight.size):
        value = np.copysign(gain, weight[i] + F32(0))  # -0.0 + 0.0 = +0.0, so that sign(0) = +1
        out[i] = value if mask[i] else F32(0)


def gradient(
    grad: np.ndarray,
    weight: np.ndarray,
    scores: np.ndarray,
    magnitude: np.float32,
    signs_only: bool,
    absolute: bool,
    out: np.ndarray,
) -> None:
    """``out = dL/db w`` or, with ``signs_only``, ``dL/db magnitude sign(w)``; times ``sign(s)`` if ``absolute``."""
    for i in range(grad.size):
        factor = np.copysign(magnitude, weight[i] + F32(0)) if signs_only else weight[i]
        sign = np.copysign(F32(1), scores[i] + F32(0)) if absolute else F32(1)
        out[i] = grad[i] * factor * sign
