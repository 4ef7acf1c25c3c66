"""From scores to the ticket weight of a large layer in two passes over memory, on the CPU.

    pass      computes                                           bytes per weight
    choose    m sign(w), the number kept and sum(m |w|)          reads 8, writes 1
    spread    g m sign(w) in the dtype that the layer needs      reads 1, writes 4, or 2 in bfloat16

:func:`choose` takes any threshold. If it keeps the right number of weights, these are the right weights: no other mask
keeps every weight that is at least as important as the least important one it keeps, and as many. So a threshold may
come from anywhere, such as a count that the optimizer made, and be wrong. Both passes give the bits of the operations
of :mod:`mpt.search.weight`.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mpt.search.fast import loops
from mpt.search.fast.loops import CHUNK, F32, F64, PAIRWISE
from mpt.search.fast.memory import empty_like

MOST_EQUAL = 100  # scores that equal the threshold; where there are more, masks are made the slow way
_scratch = threading.local()


class Choice(NamedTuple):
    """The weights that a layer keeps.

    Attributes:
        signs: ``m sign(w)``, int8, (n,) in the order of memory.
        ones: number of weights kept.
        sums: ``sum(m |w|)`` of each chunk, in float64 with NumPy's bits.
    """

    signs: np.ndarray
    ones: int
    sums: np.ndarray

    def gain(self) -> Tensor:
        """The mean magnitude of the kept weights, 0-d float32."""
        total = float(np.add.accumulate(self.sums)[-1])  # one by one, as NumPy adds chunks
        return torch.tensor(total / self.ones, dtype=torch.float32)

    def ticket_weight(self, weight: Tensor, gain: Tensor, *, dtype: torch.dtype) -> Tensor:
        """``g m sign(w)``, like ``weight`` but of ``dtype``: float32, or float32 rounded to a dtype of 16 bits."""
        if dtype == torch.float32:
            out, plus = empty_like(weight), gain.numpy()[()]
            minus = -plus
        else:
            out, plus = empty_like(weight, dtype=torch.int16), gain.to(dtype).view(torch.int16).numpy()[()]
            minus = plus ^ np.int16(-0x8000)  # NumPy has no bfloat16: this flips the sign
        arrays = loops.in_one_order(out)
        assert arrays is not None
        loops.run(spread, self.signs, arrays[0], plus, minus)
        return out if dtype == torch.float32 else out.view(dtype)

    def without(self, places: np.ndarray, weight: np.ndarray) -> Choice:
        """The choice without the kept weights at ``places`` of the memory, in whose signs they are removed."""
        self.signs[places] = 0
        for chunk in np.unique(places // CHUNK):
            self.sums[chunk] = _sum(self.signs, weight, slice(CHUNK * chunk, CHUNK * (chunk + 1)))
        return self._replace(ones=self.ones - len(places))


def choose(
    scores: np.ndarray, weight: np.ndarray, threshold: np.float32, *, absolute: bool, signs: np.ndarray | None = None
) -> Choice | None:
    """Keep the weights whose score (its magnitude if ``absolute``) is at least ``threshold``; None if one is NaN.

    Args:
        scores, weight: (n,) float32, from :func:`mpt.search.fast.loops.arrays`.
        threshold: of the scores.
        absolute: take ``|scores|``.
        signs: int8, (n,), to write to; without it, memory that the next call in this thread uses again.
    """
    signs = _scratch_signs(scores.size) if signs is None else signs
    (ones, less, first), *others = loops.run(keep, scores, weight, signs, threshold, absolute)
    for more, fewer, _ in others:
        ones, less = ones + more, less + fewer
    if ones + less < scores.size:
        return None
    sums, whole = [first, *(part[2] for part in others)], scores.size - scores.size % CHUNK
    if whole < scores.size:
        sums.append(np.array([_sum(signs, weight, slice(whole, None))]))
    return Choice(signs, ones, np.concatenate(sums) if len(sums) > 1 else sums[0])


def _sum(signs: np.ndarray, weight: np.ndarray, part: slice) -> float:
    """``sum(m |w|)`` of a chunk, or of the rest behind the last whole one."""
    return float(np.add.reduce(np.abs(weight[part]) * (signs[part] != 0), dtype=np.float64))


def equals(scores: np.ndarray, threshold: np.float32, *, absolute: bool) -> np.ndarray | None:
    """The places of the scores that equal ``threshold``, ascending; None if there are more than a few."""
    parts = loops.run(find, scores, threshold, absolute, MOST_EQUAL)
    size = loops.part_size(scores.size)
    if any(count > MOST_EQUAL for _, count in parts):
        return None
    return np.concatenate([size * place + found[:count] for place, (found, count) in enumerate(parts)])


def _scratch_signs(n: int) -> np.ndarray:
    """Memory for ``n`` signs, the same in each call of a thread, so that it stays in the processor's cache."""
    if getattr(_scratch, "signs", np.empty(0)).size < n:
        _scratch.signs = np.empty(n, np.int8)
    signs: np.ndarray = _scratch.signs[:n]
    return signs


def keep(
    scores: np.ndarray, weight: np.ndarray, signs: np.ndarray, threshold: np.float32, absolute: bool
) -> tuple[int, int, np.ndarray]:
    """Write ``m sign(w)``; the numbers of scores above (or at) and below the threshold, ``sum(m |w|)`` of each chunk.

    A sum has the bits of ``np.add.reduce(m |w|, dtype=np.float64)`` of a whole chunk of 8192 entries.
    """
    totals, values = np.empty(weight.size // CHUNK, F64), np.empty(PAIRWISE, F64)
    sums = np.empty(CHUNK // PAIRWISE, F64)
    ones, less = 0, 0
    for first in range(0, weight.size, PAIRWISE):
        s, w = scores[first : first + PAIRWISE], weight[first : first + PAIRWISE]
        out = signs[first : first + PAIRWISE]
        a, b = np.int32(0), np.int32(0)  # of this block: 32 bits, so that many entries are counted at a time
        for i in range(s.size):
            value = abs(s[i]) if absolute else s[i]
            kept = value >= threshold
            a += np.int32(kept)
            b += np.int32(value < threshold)
            values[i] = F64(abs(w[i]) if kept else F32(0))
            sign = np.int8(1) if w[i] >= F32(0) else np.int8(-1)
            out[i] = sign if kept else np.int8(0)
        ones += int(a)
        less += int(b)
        chunk = first // CHUNK
        if chunk < totals.size:
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
            sums[(first - CHUNK * chunk) // PAIRWISE] = ((r0 + r1) + (r2 + r3)) + ((r4 + r5) + (r6 + r7))
            if (first + PAIRWISE) % CHUNK == 0:
                pairs = sums.size
                while pairs > 1:
                    pairs //= 2
                    for i in range(pairs):
                        sums[i] = sums[2 * i] + sums[2 * i + 1]
                totals[chunk] = sums[0]
    return ones, less, totals


def spread(signs: np.ndarray, out: np.ndarray, plus: np.generic, minus: np.generic) -> None:
    """``out = plus``, ``minus`` or 0, by the sign."""
    zero = out.dtype.type(0)
    for i in range(signs.size):
        value = plus if signs[i] > 0 else minus
        out[i] = value if signs[i] != 0 else zero


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
