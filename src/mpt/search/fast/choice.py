"""From scores to the ticket weight of a layer in two passes over memory, on the CPU.

    pass      computes                                           bytes per weight
    choose    m sign(w), the number kept and sum(m |w|)          reads 8, writes 1/4
    spread    g m sign(w) in the dtype that the layer needs      reads 1/4, writes 4, or 2 in bfloat16

:func:`choose` takes any threshold. If it keeps the right number of weights, these are the right weights: no other mask
keeps every weight that is at least as important as the least important one it keeps, and as many. So a threshold may
come from anywhere, such as a count that the optimizer made, and be wrong. Both passes give the bits of the operations
of :mod:`mpt.search.weight`.
"""

from __future__ import annotations

import ctypes
import math
import operator
import threading
from collections.abc import Callable
from functools import cache, reduce
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mpt.search.fast import loops, native
from mpt.search.fast.loops import CHUNK, LANES, PAIRWISE
from mpt.search.fast.memory import empty_like

TASK = 4 * CHUNK  # entries that a thread takes at a time
MOST_EQUAL = 100  # scores that equal the threshold; where there are more, masks are made the slow way


class _Scratch(threading.local):
    """Memory for signs, and its address, the same in each call of a thread: it stays in the processor's cache."""

    signs: np.ndarray = np.empty(0, np.uint32)
    address = 0


_scratch = _Scratch()


class Choice(NamedTuple):
    """The weights that a layer keeps.

    Attributes:
        signs: ``m sign(w)`` in the order of memory, 2 bits each: uint32, (ceil(n / 16),) or longer, in whose low halves
            those are 1 that are +1, and in whose high halves those that are -1.
        address: of the signs.
        ones: number of weights kept.
        sums: ``sum(m |w|)`` of each chunk, in float64 with NumPy's bits.
    """

    signs: np.ndarray
    address: int
    ones: int
    sums: ctypes.Array[ctypes.c_double]

    def gain(self) -> float:
        """The mean magnitude of the kept weights, to be rounded to float32."""
        return reduce(operator.add, self.sums[:]) / self.ones  # one by one, as NumPy; sum() would compensate errors

    def ticket_weight(self, weight: Tensor, gain: float, *, dtype: torch.dtype) -> Tensor:
        """``g m sign(w)``, like ``weight`` but of ``dtype``: float32, or float32 rounded to a dtype of 16 bits."""
        out, wide, n = empty_like(weight, dtype=dtype), dtype == torch.float32, weight.numel()
        plus = native.bits(gain) if wide else _short_bits(gain, dtype)
        numbers = self.address, out.data_ptr(), n, plus, plus ^ (1 << 31 if wide else 1 << 15), wide
        native.call(_loop("spread"), math.ceil(n / TASK), TASK, *numbers)
        return out

    def without(self, places: np.ndarray, weight: np.ndarray) -> Choice:
        """The choice without the kept weights at ``places`` of the memory, in whose signs they are removed."""
        bits = np.left_shift(np.uint32(0x10001), (places % LANES).astype(np.uint32))
        np.bitwise_and.at(self.signs, places // LANES, ~bits)
        for chunk in np.unique(places // CHUNK).tolist():
            part = weight[CHUNK * chunk : CHUNK * (chunk + 1)]
            self.sums[chunk] = _sum(self.signs[CHUNK * chunk // LANES :], part)
        return self._replace(ones=self.ones - len(places))


def choose(
    scores: np.ndarray, weight: np.ndarray, threshold: np.float32, *, absolute: bool, signs: np.ndarray | None = None
) -> Choice | None:
    """Keep the weights whose score (its magnitude if ``absolute``) is at least ``threshold``; None if one is NaN.

    Args:
        scores, weight: (n,) float32, from :func:`mpt.search.fast.loops.arrays`.
        threshold: of the scores.
        absolute: take ``|scores|``.
        signs: from :func:`empty_signs`, to write to; without it, memory that the next call in this thread uses again.
    """
    return choose_at(scores.ctypes.data, weight.ctypes.data, scores.size, threshold, absolute=absolute, signs=signs)


def choose_at(
    scores: int, weight: int, n: int, threshold: np.float32, *, absolute: bool, signs: np.ndarray | None = None
) -> Choice | None:
    """:func:`choose` with the addresses of ``n`` scores and weights, float32 without gaps and in one order."""
    signs, address = _scratch_signs(n) if signs is None else (signs, signs.ctypes.data)
    sums = (ctypes.c_double * math.ceil(n / CHUNK))()
    numbers = n, native.bits(threshold), absolute, ctypes.addressof(sums), 0, 0
    table = native.call(_loop("keep"), math.ceil(n / TASK), TASK, scores, weight, address, *numbers)
    ones, strange = table[-2:]
    if strange:
        return None
    rest = n % CHUNK
    if rest % PAIRWISE or rest.bit_count() > 1:  # NumPy divides it in another way than the loop
        last = np.ctypeslib.as_array((ctypes.c_float * rest).from_address(weight + 4 * (n - rest)))
        sums[-1] = _sum(signs[(n - rest) // LANES :], last)
    return Choice(signs, address, ones, sums)


@cache
def _loop(name: str) -> Callable[[int], None]:
    from mpt.search.fast import choice_loop

    return getattr(choice_loop, name)  # type: ignore[no-any-return]


def _short_bits(gain: float, dtype: torch.dtype) -> int:
    """The 16 bits of a float32 rounded to ``dtype``."""
    if dtype == torch.bfloat16:
        return native.bfloat16_bits(gain)
    return int(torch.tensor(gain, dtype=torch.float32).to(dtype).view(torch.int16))


def _sum(signs: np.ndarray, weight: np.ndarray) -> float:
    """``sum(m |w|)`` of a chunk, or of the rest behind the last whole one, whose signs are the first of ``signs``."""
    return float(np.add.reduce(np.abs(weight) * (unpack(signs, weight.size) != 0), dtype=np.float64))


def empty_signs(n: int) -> np.ndarray:
    """Memory for the signs of ``n`` weights, uint32."""
    return np.empty(math.ceil(n / LANES), np.uint32)


def unpack(signs: np.ndarray, n: int) -> np.ndarray:
    """The first ``n`` of ``signs`` as int8, (n,): 1, 0 and -1."""
    words = signs[: math.ceil(n / LANES), None]
    plus, minus = ((words >> np.arange(start, start + LANES, dtype=np.uint32)) & 1 for start in (0, LANES))
    return (plus.astype(np.int8) - minus.astype(np.int8)).reshape(-1)[:n]


def equals(scores: np.ndarray, threshold: np.float32, *, absolute: bool) -> np.ndarray | None:
    """The places of the scores that equal ``threshold``, ascending; None if there are more than a few."""
    parts = loops.run(find, scores, threshold, absolute, MOST_EQUAL)
    size = loops.part_size(scores.size)
    if any(count > MOST_EQUAL for _, count in parts):
        return None
    return np.concatenate([size * place + found[:count] for place, (found, count) in enumerate(parts)])


def _scratch_signs(n: int) -> tuple[np.ndarray, int]:
    """Memory for ``n`` signs or more, and its address."""
    if _scratch.signs.size < math.ceil(n / LANES):
        _scratch.signs = empty_signs(n)
        _scratch.address = _scratch.signs.ctypes.data
    return _scratch.signs, _scratch.address


def find(scores: np.ndarray, threshold: np.float32, absolute: bool, most: int) -> tuple[np.ndarray, int]:
    """The first ``most`` places of scores that equal ``threshold``, and how many there are in all."""
    found, count = np.empty(most, np.int64), 0
    for first in range(0, scores.size, PAIRWISE):
        some, hits = scores[first : first + PAIRWISE], np.int32(0)
        for i in range(some.size):
            hits += np.int32((abs(some[i]) if absolute else some[i]) == threshold)
        if hits > 0:
            for i in range(some.size):
                if (abs(some[i]) if absolute else some[i]) == threshold:
                    if count < most:
                        found[count] = first + i
                    count += 1
    return found, count
