"""The compiled loop of :mod:`mpt.search.fast.descent`, which imports it, and numba with it, for the first step."""

from __future__ import annotations

import numpy as np
from numba import carray
from numba.extending import register_jitable

from mpt.search.fast.addresses import (
    add_at,
    as_float,
    compare,
    count_ones,
    divide,
    doubles_at,
    floats_at,
    fma,
    halves_at,
    longs_at,
    root,
)
from mpt.search.fast.loops import LANES

BLOCK = 512  # entries that are updated, and then counted, while they are in the processor's nearest cache
F32 = np.float32
SGD, UPDATE, NUMBERS = 0, 17, 18  # the table's places of the update and its first number


def descend(address):
    """Move the scores of parts of layers by a step, and count them around the window of their layer.

    The thread that ends last finds the thresholds: of each window the kept-th largest score, if it is a candidate.

    The table, behind the two numbers of :mod:`mpt.search.fast.native`:

        2  address of the tasks, (t, 3) int64: index of a layer, and the entries from which and to which
        3  address of the layers, (l, 6) int64: addresses of gradient, weights, scores, first and second moment; whether
           the gradient is bfloat16
        4  address of numbers, (l, 3) float32: magnitude of the gradient's factor, lower and upper end of the window
        5  address of counts, (t, 3) int64, written: the numbers of new scores above, below and in the window
        6  address of candidates, (t, c) float32, written: the first c - 1 scores in the window
        7  t            8  l             9  c           10  v
        11 address of the windows, (v, 3) int64: how many scores are kept; the places in 12 of its first and next task
        12 address of the indices of tasks, int64, one window after the other
        13 address of thresholds, (v, 2) float64, written: the number of candidates and the threshold, or 0 and 0
        14 the number of tasks that have ended, added to
        15, 16  signs_only and absolute of :func:`mpt.search.fast.loops.gradient`
        17 the update: 0 is SGD's, 1 Adam's
        18 and more  its numbers, those of float32 as their bits: see :func:`_move_sgd` and :func:`_move_adam`
    """
    table = carray(longs_at(address), NUMBERS)
    tasks, layers = carray(longs_at(table[2]), (table[7], 3)), carray(longs_at(table[3]), (table[8], 6))
    numbers, counts = carray(floats_at(table[4]), (table[8], 3)), carray(longs_at(table[5]), (table[7], 3))
    inside, room = carray(floats_at(table[6]), (table[7], table[9])), table[9] - 1
    signs_only, absolute = table[15] != 0, table[16] != 0
    bits = np.uint32(0x7FFFFFFF if absolute else 0xFFFFFFFF)
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
            if longs_at(address)[UPDATE] == SGD:
                _move_sgd(address, slopes, scores, moment)
            else:
                _move_adam(address, slopes, scores, moment, carray(floats_at(layers[layer, 4] + 4 * start), size))
            for part in range(0, size, LANES):
                outside = compare(layers[layer, 2] + 4 * (start + part), bits, low, high)
                above += count_ones(outside & np.uint32(0xFFFF))
                below += count_ones(outside >> np.uint32(LANES))
                if (outside | outside >> np.uint32(LANES)) & np.uint32(0xFFFF) != np.uint32(0xFFFF):
                    for i in range(part, part + LANES):
                        value = abs(scores[i]) if absolute else scores[i]
                        inside[task, min(copied, room)] = value  # overwritten by the next unless it is in the window
                        copied += (value >= low) & (value < high)
        counts[task, 0], counts[task, 1], counts[task, 2] = above, below, copied
        if add_at(address + 8 * 14, 1) == tasks.shape[0] - 1:
            _find_thresholds(address, tasks, counts, inside)
        task = add_at(address, 1)


@register_jitable
def _find_thresholds(address, tasks, counts, inside):
    table = carray(longs_at(address), NUMBERS)
    windows, found = carray(longs_at(table[11]), (table[10], 3)), carray(doubles_at(table[13]), (table[10], 2))
    for window in range(windows.shape[0]):
        kept, first, last = windows[window, 0], windows[window, 1], windows[window, 2]
        members = carray(longs_at(table[12] + 8 * first), last - first)
        n, above, below, within, most = 0, 0, 0, 0, 0
        for task in members:
            n += tasks[task, 2] - tasks[task, 1]
            above += counts[task, 0]
            below += counts[task, 1]
            within += counts[task, 2]
            most = max(most, counts[task, 2])
        found[window, 0], found[window, 1] = 0.0, 0.0
        # not with a NaN, nor where a task had too many candidates
        if above + below + within == n and most < table[9] and 1 <= kept - above <= within:
            candidates, size = np.empty(within, np.float32), 0
            for task in members:
                for i in range(counts[task, 2]):
                    candidates[size] = inside[task, i]
                    size += 1
            found[window, 0], found[window, 1] = within, _select(candidates, within - (kept - above))


@register_jitable
def _select(x, place):
    """The entry of ``x``, which is reordered, that sorting would put at ``place``: Hoare's quickselect."""
    low, high = 0, x.size - 1
    while low < high:
        pivot, i, j = x[(low + high) // 2], low, high
        while i <= j:
            while x[i] < pivot:
                i += 1
            while x[j] > pivot:
                j -= 1
            if i <= j:
                x[i], x[j] = x[j], x[i]
                i += 1
                j -= 1
        if place <= j:
            high = j
        elif place >= i:
            low = i
        else:
            break
    return x[place]


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
