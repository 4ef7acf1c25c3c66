"""The compiled loops of :mod:`mpt.search.fast.choice`, which imports them, and numba with them, for the first mask."""

from __future__ import annotations

import numpy as np
from numba import carray

from mpt.search.fast.addresses import (
    add_at,
    as_float,
    doubles_at,
    floats_at,
    halves_at,
    keep_block,
    longs_at,
    words_at,
    write_signs,
)
from mpt.search.fast.loops import CHUNK, F32, F64, LANES, PAIRWISE


def keep(address):
    """Write ``m sign(w)``, count the scores at or above the threshold, and write ``sum(m |w|)`` of each chunk.

    Signs are 2 bits each: a word of 32 bits has 16 of them, in its low half which are 1, in its high half which are -1.
    A sum has the bits of ``np.add.reduce(m |w|, dtype=np.float64)`` of a chunk of 8192 entries, or of a last one of
    ``128 2^k``. The table, behind the two numbers of :mod:`mpt.search.fast.native`:

        2  entries of a task, whole chunks          6  n
        3  address of the scores, float32           7  the threshold's bits
        4  address of the weights, float32          8  whether the magnitude of a score counts
        5  address of the signs, uint32, written    9  address of the sums, float64, written
        10, 11  the numbers of scores that are kept, and that are NaN, added to
    """
    table = carray(longs_at(address), 12)
    tasks, size, n = table[1], table[2], table[6]
    threshold, bits = as_float(np.uint32(table[7])), np.uint32(0x7FFFFFFF if table[8] != 0 else 0xFFFFFFFF)
    sums, counts = np.empty(CHUNK // PAIRWISE, F64), np.empty(2, np.int64)
    last, words = np.empty((2, PAIRWISE), F32), np.empty(PAIRWISE // LANES, np.uint32)  # of a block that is not whole
    task = add_at(address, 1)
    while task < tasks:
        count = min(size, n - task * size)
        scores, weight = table[3] + 4 * task * size, table[4] + 4 * task * size
        signs = table[5] + 4 * (task * size // LANES)
        totals = carray(doubles_at(table[9] + 8 * (task * size // CHUNK)), (count + CHUNK - 1) // CHUNK)
        counts[0], counts[1] = 0, 0
        for first in range(0, count // PAIRWISE * PAIRWISE, PAIRWISE):
            chunk = first // CHUNK
            block, blocks = (first - CHUNK * chunk) // PAIRWISE, min(CHUNK, count - CHUNK * chunk) // PAIRWISE
            sums[block] = keep_block(
                scores + 4 * first,
                weight + 4 * first,
                signs + 4 * (first // LANES),
                bits,
                threshold,
                counts.ctypes.data,
            )
            if block + 1 == blocks:
                while blocks > 1:
                    blocks //= 2
                    for i in range(blocks):
                        sums[i] = sums[2 * i] + sums[2 * i + 1]
                totals[chunk] = sums[0]
        rest = count % PAIRWISE
        if rest > 0:
            first = count - rest
            for i in range(PAIRWISE):
                last[0, i] = floats_at(scores + 4 * first)[i] if i < rest else F32(np.nan)  # which keeps nothing
                last[1, i] = floats_at(weight + 4 * first)[i] if i < rest else F32(0)
            weights = last.ctypes.data + 4 * PAIRWISE
            keep_block(last.ctypes.data, weights, words.ctypes.data, bits, threshold, counts.ctypes.data)
            counts[1] -= PAIRWISE - rest
            for i in range((rest + LANES - 1) // LANES):
                words_at(signs + 4 * (first // LANES))[i] = words[i]
        add_at(address + 80, counts[0])
        add_at(address + 88, counts[1])
        task = add_at(address, 1)


def spread(address):
    """Write one of two patterns of bits, or 0, by the sign. The table:

    2  entries of a task, whole words      5  n
    3  address of the signs, as above      6  bits where the sign is 1
    4  address of the result, written      7  bits where it is -1
    8  whether an entry of the result has 32 bits; else it has 16
    """
    table = carray(longs_at(address), 9)
    tasks, size, n, wide = table[1], table[2], table[5], table[8] != 0
    plus, minus, high, low = np.uint32(table[6]), np.uint32(table[7]), np.uint16(table[6]), np.uint16(table[7])
    task = add_at(address, 1)
    while task < tasks:
        count = min(size, n - task * size)
        signs = carray(words_at(table[3] + 4 * (task * size // LANES)), (count + LANES - 1) // LANES)
        out = table[4] + (4 if wide else 2) * task * size
        for word in range(count // LANES):
            if wide:
                write_signs(signs[word], out + 4 * LANES * word, plus, minus)
            else:
                write_signs(signs[word], out + 2 * LANES * word, high, low)
        for i in range(count // LANES * LANES, count):
            here = signs[i // LANES] >> np.uint32(i % LANES)
            value = plus if here & np.uint32(1) else minus if here & np.uint32(0x10000) else np.uint32(0)
            if wide:
                words_at(out)[i] = value
            else:
                halves_at(out)[i] = np.uint16(value)
        task = add_at(address, 1)
