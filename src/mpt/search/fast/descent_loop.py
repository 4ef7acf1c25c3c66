"""The compiled loop of :mod:`mpt.search.fast.descent`, which imports it, and numba with it, for the first step."""

from __future__ import annotations

import numpy as np
from numba import carray, types
from numba.extending import intrinsic

BLOCK = 512  # entries that are updated, and then counted, while they are in the processor's nearest cache
PART = 64  # entries that are counted together
F32 = np.float32


@intrinsic
def _floats(context, address):
    """``address`` as a pointer to float32."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(types.int64), generate


@intrinsic
def _halves(context, address):
    """``address`` as a pointer to uint16."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint16)(types.int64), generate


@intrinsic
def _as_float(context, bits):
    """The float32 of these 32 bits."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), generate


@intrinsic
def _fma(context, x, y, z):
    """``x y + z``, rounded once."""

    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


def descend(tasks, layers, numbers, counts, inside, rate, momentum, decay, nesterov, signs_only, absolute):
    """Move the scores of parts of layers by a step, and count them around the window of their layer.

    Args:
        tasks: (t, 3) int64: index of a layer, and the entries from which and to which.
        layers: (l, 5) int64: addresses of gradient, weights, scores and momentum; whether the gradient is bfloat16.
        numbers: (l, 3) float32: magnitude of the gradient's factor, lower and upper end of the window.
        counts: (t, 3) int64, written: the numbers of new scores above, below and in the window.
        inside: (t, c) float32, written: the first c - 1 scores in the window.
        rate: minus the learning rate.
        momentum, decay, nesterov: as for torch.optim.SGD.
        signs_only, absolute: as for :func:`mpt.search.fast.loops.gradient`.
    """
    slopes, room = np.empty(BLOCK, np.float32), inside.shape[1] - 1
    for task in range(tasks.shape[0]):
        layer, first, last = tasks[task, 0], tasks[task, 1], tasks[task, 2]
        magnitude, low, high = numbers[layer, 0], numbers[layer, 1], numbers[layer, 2]
        above, below, copied = 0, 0, 0
        for start in range(first, last, BLOCK):
            size = min(BLOCK, last - start)
            weight = carray(_floats(layers[layer, 1] + 4 * start), size)
            scores = carray(_floats(layers[layer, 2] + 4 * start), size)
            moved = carray(_floats(layers[layer, 3] + 4 * start), size)
            if layers[layer, 4]:
                short = carray(_halves(layers[layer, 0] + 2 * start), size)
                for i in range(size):
                    slopes[i] = _as_float(np.uint32(short[i]) << np.uint32(16))
            else:
                long = carray(_floats(layers[layer, 0] + 4 * start), size)
                for i in range(size):
                    slopes[i] = long[i]
            for i in range(size):
                factor = np.copysign(magnitude, weight[i] + F32(0)) if signs_only else weight[i]
                sign = np.copysign(F32(1), scores[i] + F32(0)) if absolute else F32(1)
                slope = slopes[i] * factor * sign
                slope = _fma(scores[i], decay, slope) if decay != F32(0) else slope
                pace = moved[i] * momentum + slope
                moved[i] = pace
                scores[i] = _fma(_fma(pace, momentum, slope) if nesterov else pace, rate, scores[i])
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
