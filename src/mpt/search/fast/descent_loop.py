"""The compiled loop of :mod:`mpt.search.fast.descent`, which imports it, and numba with it, for the first step."""

from __future__ import annotations

import numpy as np
from numba import carray

from mpt.search.fast.addresses import add_at, as_float, floats_at, fma, halves_at, longs_at

BLOCK = 512  # entries that are updated, and then counted, while they are in the processor's nearest cache
PART = 64  # entries that are counted together
F32 = np.float32


def descend(address):
    """Move the scores of parts of layers by a step, and count them around the window of their layer.

    The table, behind the two numbers of :mod:`mpt.search.fast.native`:

        2  address of the tasks, (t, 3) int64: index of a layer, and the entries from which and to which
        3  address of the layers, (l, 5) int64: addresses of gradient, weights, scores and momentum; whether the
           gradient is bfloat16
        4  address of numbers, (l, 3) float32: magnitude of the gradient's factor, lower and upper end of the window
        5  address of counts, (t, 3) int64, written: the numbers of new scores above, below and in the window
        6  address of candidates, (t, c) float32, written: the first c - 1 scores in the window
        7  t            8  l             9  c
        10, 11, 12  bits of minus the learning rate, momentum and weight decay
        13  whether the step is Nesterov's
        14, 15  signs_only and absolute of :func:`mpt.search.fast.loops.gradient`
    """
    table = carray(longs_at(address), 16)
    tasks, layers = carray(longs_at(table[2]), (table[7], 3)), carray(longs_at(table[3]), (table[8], 5))
    numbers, counts = carray(floats_at(table[4]), (table[8], 3)), carray(longs_at(table[5]), (table[7], 3))
    inside, room = carray(floats_at(table[6]), (table[7], table[9])), table[9] - 1
    rate, momentum, decay = (
        as_float(np.uint32(table[10])),
        as_float(np.uint32(table[11])),
        as_float(np.uint32(table[12])),
    )
    nesterov, signs_only, absolute = table[13] != 0, table[14] != 0, table[15] != 0
    slopes, task = np.empty(BLOCK, np.float32), add_at(address, 1)
    while task < tasks.shape[0]:
        layer, first, last = tasks[task, 0], tasks[task, 1], tasks[task, 2]
        magnitude, low, high = numbers[layer, 0], numbers[layer, 1], numbers[layer, 2]
        above, below, copied = 0, 0, 0
        for start in range(first, last, BLOCK):
            size = min(BLOCK, last - start)
            weight = carray(floats_at(layers[layer, 1] + 4 * start), size)
            scores = carray(floats_at(layers[layer, 2] + 4 * start), size)
            moved = carray(floats_at(layers[layer, 3] + 4 * start), size)
            if layers[layer, 4]:
                short = carray(halves_at(layers[layer, 0] + 2 * start), size)
                for i in range(size):
                    slopes[i] = as_float(np.uint32(short[i]) << np.uint32(16))
            else:
                long = carray(floats_at(layers[layer, 0] + 4 * start), size)
                for i in range(size):
                    slopes[i] = long[i]
            for i in range(size):
                factor = np.copysign(magnitude, weight[i] + F32(0)) if signs_only else weight[i]
                sign = np.copysign(F32(1), scores[i] + F32(0)) if absolute else F32(1)
                slope = slopes[i] * factor * sign
                slope = fma(scores[i], decay, slope) if decay != F32(0) else slope
                pace = moved[i] * momentum + slope
                moved[i] = pace
                scores[i] = fma(fma(pace, momentum, slope) if nesterov else pace, rate, scores[i])
            for part in range(0, size, PART):
                some = scores[part : part + PART]
                a, b = np.int32(0), np.int32(0)
                for i in range(some.size):
                    value = abs(some[i]) if absolute else some[i]
                    a += np.int32(value >= high)
                    b += np.int32(value < low)
                above += int(a)
                below += int(b)
                if a + b < some.size:
                    for i in range(some.size):
                        value = abs(some[i]) if absolute else some[i]
                        inside[task, min(copied, room)] = value  # overwritten by the next unless it is in the window
                        copied += (value >= low) & (value < high)
        counts[task, 0], counts[task, 1], counts[task, 2] = above, below, copied
        task = add_at(address, 1)
