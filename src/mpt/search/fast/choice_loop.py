"""The compiled loops of :mod:`mpt.search.fast.choice`, which imports them, and numba with them, for the first mask."""

from __future__ import annotations

import numpy as np
from numba import carray

from mpt.search.fast.addresses import (
    add_at,
    as_float,
    bytes_at,
    doubles_at,
    floats_at,
    halves_at,
    longs_at,
    sum_in_eights,
    words_at,
)
from mpt.search.fast.loops import CHUNK, F32, F64, PAIRWISE


def keep(address):
    """Write ``m sign(w)``, count the scores above (or at) and below the threshold, write ``sum(m |w|)`` of each chunk.

    A sum has the bits of ``np.add.reduce(m |w|, dtype=np.float64)`` of a chunk of 8192 entries, or of a last one of
    ``128 2^k``. The table, behind the two numbers of :mod:`mpt.search.fast.native`:

        2  entries of a task, whole chunks          6  n
        3  address of the scores, float32           7  the threshold's bits
        4  address of the weights, float32          8  whether the magnitude of a score counts
        5  address of the signs, int8, written      9  address of the sums, float64, written
        10, 11  the numbers of scores above and below, added to
    """
    table = carray(longs_at(address), 12)
    tasks, size, n = table[1], table[2], table[6]
    threshold, absolute = as_float(np.uint32(table[7])), table[8] != 0
    values, sums = np.empty(PAIRWISE, F64), np.empty(CHUNK // PAIRWISE, F64)
    task = add_at(address, 1)
    while task < tasks:
        count = min(size, n - task * size)
        scores = carray(floats_at(table[3] + 4 * task * size), count)
        weight = carray(floats_at(table[4] + 4 * task * size), count)
        signs = carray(bytes_at(table[5] + task * size), count)
        totals = carray(doubles_at(table[9] + 8 * (task * size // CHUNK)), (count + CHUNK - 1) // CHUNK)
        ones, less = 0, 0
        for first in range(0, count, PAIRWISE):
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
            if s.size == PAIRWISE:
                chunk = first // CHUNK
                block, blocks = (first - CHUNK * chunk) // PAIRWISE, min(CHUNK, count - CHUNK * chunk) // PAIRWISE
                sums[block] = sum_in_eights(doubles_at(values.ctypes.data))
                if block + 1 == blocks:
                    while blocks > 1:
                        blocks //= 2
                        for i in range(blocks):
                            sums[i] = sums[2 * i] + sums[2 * i + 1]
                    totals[chunk] = sums[0]
        add_at(address + 80, ones)
        add_at(address + 88, less)
        task = add_at(address, 1)


def spread(address):
    """Write one of two patterns of bits, or 0, by the sign. The table:

    2  entries of a task                5  n
    3  address of the signs, int8       6  bits where the sign is 1
    4  address of the result, written   7  bits where it is -1
    8  whether an entry of the result has 32 bits; else it has 16
    """
    table = carray(longs_at(address), 9)
    tasks, size, n = table[1], table[2], table[5]
    task = add_at(address, 1)
    while task < tasks:
        count = min(size, n - task * size)
        signs = carray(bytes_at(table[3] + task * size), count)
        if table[8] != 0:
            words, plus, minus = (
                carray(words_at(table[4] + 4 * task * size), count),
                np.uint32(table[6]),
                np.uint32(table[7]),
            )
            for i in range(count):
                value = plus if signs[i] > 0 else minus
                words[i] = value if signs[i] != 0 else np.uint32(0)
        else:
            halves, high, low = (
                carray(halves_at(table[4] + 2 * task * size), count),
                np.uint16(table[6]),
                np.uint16(table[7]),
            )
            for i in range(count):
                half = high if signs[i] > 0 else low
                halves[i] = half if signs[i] != 0 else np.uint16(0)
        task = add_at(address, 1)
