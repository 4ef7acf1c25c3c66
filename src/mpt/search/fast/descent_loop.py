"""The compiled loop of :mod:`mpt.search.fast.descent`, which imports it, and numba with it, for the first step."""

from __future__ import annotations

import numpy as np
from numba import carray
from numba.extending import register_jitable

from mpt.search.fast.addresses import add_at, as_float, divide, floats_at, fma, halves_at, longs_at, root

BLOCK = 512  # entries that are updated, and then counted, while they are in the processor's nearest cache
PART = 64  # entries that are counted together
F32 = np.float32
SGD, NUMBERS = 0, 13  # the table's place of the update's first number


def descend(address):
    """Move the scores of parts of layers by a step, and count them around the window of their layer.

    The table, behind the two numbers of :mod:`mpt.search.fast.native`:

        2  address of the tasks, (t, 3) int64: index of a layer, and the entries from which and to which
        3  address of the layers, (l, 6) int64: addresses of gradient, weights, scores, first and second moment; whether
           the gradient is bfloat16
        4  address of numbers, (l, 3) float32: magnitude of the gradient's factor, lower and upper end of the window
        5  address of counts, (t, 3) int64, written: the numbers of new scores above, below and in the window
        6  address of candidates, (t, c) float32, written: the first c - 1 scores in the window
        7  t            8  l             9  c
        10, 11  signs_only and absolute of :func:`mpt.search.fast.loops.gradient`
        12  the update: 0 is SGD's, 1 Adam's
        13 and more  its numbers, those of float32 as their bits: see :func:`_move_sgd` and :func:`_move_adam`
    """
    table = carray(longs_at(address), 12)
    tasks, layers = carray(longs_at(table[2]), (table[7], 3)), carray(longs_at(table[3]), (table[8], 6))
    numbers, counts = carray(floats_at(table[4]), (table[8], 3)), carray(longs_at(table[5]), (table[7], 3))
    inside, room = carray(floats_at(table[6]), (table[7], table[9])), table[9] - 1
    signs_only, absolute = table[10] != 0, table[11] != 0
    slopes, task = np.empty(BLOCK, np.float32), add_at(address, 1)
    while task < tasks.shape[0]:
        layer, first, last = tasks[task, 0], tasks[task, 1], tasks[task, 2]
        magnitude, low, high = numbers[layer, 0], numbers[layer, 1], numbers[layer, 2]
        above, below, copied = 0, 0, 0
        for start in range(first, last, BLOCK):
            size = min(BLOCK, last - start)
            weight = carray(floats_at(layers[layer, 1] + 4 * start), size)
            scores = carray(floats_at(layers[layer, 2] + 4 * start), size)
            moment = carray(floats_at(layers[layer, 3] + 4 * start), size)
            if layers[layer, 5]:
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
                slopes[i] = slopes[i] * factor * sign
            if longs_at(address)[12] == SGD:
                _move_sgd(address, slopes, scores, moment)
            else:
                _move_adam(address, slopes, scores, moment, carray(floats_at(layers[layer, 4] + 4 * start), size))
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


@register_jitable
def _number(address, place):
    return as_float(np.uint32(longs_at(address)[NUMBERS + place]))


@register_jitable
def _move_sgd(address, slopes, scores, moment):
    """Numbers: minus the learning rate, momentum, weight decay; whether the step is Nesterov's."""
    rate, momentum, decay = _number(address, 0), _number(address, 1), _number(address, 2)
    nesterov = longs_at(address)[NUMBERS + 3] != 0
    for i in range(scores.size):
        slope = fma(scores[i], decay, slopes[i]) if decay != F32(0) else slopes[i]
        pace = moment[i] * momentum + slope
        moment[i] = pace
        scores[i] = fma(fma(pace, momentum, slope) if nesterov else pace, rate, scores[i])


@register_jitable
def _move_adam(address, slopes, scores, moment, square):
    """Numbers: minus the size of the step; weight of the gradient in the first moment, less one if it is not small;
    of the old and the new in the second; its correction's root, eps, weight decay, what a decoupled decay leaves;
    whether the weight is small."""
    size, share, old, new = _number(address, 0), _number(address, 1), _number(address, 2), _number(address, 3)
    correction, eps, decay, kept = _number(address, 4), _number(address, 5), _number(address, 6), _number(address, 7)
    small = longs_at(address)[NUMBERS + 8] != 0
    for i in range(scores.size):
        slope = fma(scores[i], decay, slopes[i]) if decay != F32(0) else slopes[i]
        mean = fma(share, slope - moment[i], moment[i] if small else slope)
        second = fma(new * slope, slope, square[i] * old)
        moment[i], square[i] = mean, second
        scores[i] = scores[i] * kept + divide(size * mean, divide(root(second), correction) + eps)
