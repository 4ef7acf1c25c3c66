"""The doubling construction: binary weights in a chain of layers whose width is logarithmic in the accuracy.

Random signs, gain 1 in the first layer, 1/2 in the next b, g in the last. A signal is an input, or with inputs of any
sign its positive or its negative part: S of them, never negative. After layer t there are neurons of value

    x           the top, twice: two tops, each halved, keep it             a neuron fits with probability 1/4
    x 2^-r      the digits r = 1..t: one neuron of value x 2^(1-r), halved  a neuron fits with probability 1/2

and the last layer adds the binary digits of ``|w| / g``, rounded to b digits behind the point: the error of a weight is
at most ``g 2^-(b+1)``. A digit is held by R neurons, so that each row finds one with the sign that it needs:

    R = ceil(log2(2 S rows (b + 1) / failure))

A layer fills its slots greedily: each neuron, in order, takes the first open slot that it fits. With u slots open, of
which at most G have the same sources, it fits none with probability at most ``(3/4)^ceil(u/G)``. So the neurons wasted
are at most a sum of geometric variables, and their tail gives the width: the slots and a few more.

The construction is after Sreenivasan, Rajput, Sohn and Papailiopoulos 2021; this form and its proof are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

DEEPEST = 40  # digits


@dataclass(frozen=True)
class Chain:
    """Sizes of the chain of one target layer.

    Attributes:
        digits: b.
        gain: of the last layer.
        copies: R, neurons that hold a digit in the last hidden layer.
        slots: neurons that each hidden layer must hold, (b + 1,).
        widths: of the hidden layers, (b + 1,).
    """

    digits: int
    gain: np.float32
    copies: int
    slots: tuple[int, ...]
    widths: tuple[int, ...]


def plan(*, accuracy: float, largest: float, signals: int, rows: int, failure: float) -> Chain:
    """The chain for weights of at most ``largest``.

    Args:
        accuracy: largest error of a weight.
        largest: magnitude of the largest weight.
        signals: inputs, twice where they may have any sign.
        rows: weights of an input.
        failure: probability that a layer of the chain cannot be filled.

    Raises:
        ValueError: more digits than ``DEEPEST``.
    """
    for digits in range(1, DEEPEST + 1):
        gain = np.nextafter(np.float32(largest / (2 - 2.0**-digits)), np.float32(np.inf))
        if float(gain) * 2.0 ** -(digits + 1) <= accuracy:
            break
    else:
        raise ValueError(
            f"accuracy={accuracy:g} takes more than {DEEPEST} digits of weights up to {largest:g}: ask for less"
        )
    copies = math.ceil(math.log2(2 * signals * rows * (digits + 1) / failure))
    held = [2 + t for t in range(digits)] + [(digits + 1) * copies]
    slots = tuple(signals * number for number in held)
    each = failure / (2 * len(slots))
    alike = [2, *[3] * (digits - 1), 2 * copies]  # slots with the same sources: both tops and digit 1
    widths = tuple(
        number + spare(number, alike=most, fits=0.5 if t == 0 else 0.25, failure=each)
        for t, (number, most) in enumerate(zip(slots, alike, strict=True))
    )
    return Chain(digits, gain, copies, slots, widths)


def spare(slots: int, *, alike: int, fits: float, failure: float) -> int:
    """Neurons beyond ``slots`` so that the greedy choice fills all of them but with probability ``failure``.

    The least s with ``P(W > s) <= failure`` by Chernoff, ``min_z z^-(s+1) E z^W``: W is the sum over the open slots
    u = 1..slots of geometric variables of ``q_u = (1 - fits)^ceil(u / alike)``.
    """
    q = (1 - fits) ** np.ceil(np.arange(1, min(slots, 400 * alike) + 1) / alike)
    z = np.linspace(1, 1 / q[0], 400)[1:-1, None]
    moment = np.log1p(-q).sum() - np.log1p(-z * q).sum(axis=1)  # ln E z^W
    return max(0, math.ceil(float(((moment - math.log(failure)) / np.log(z[:, 0])).min())) - 1)


def digits_of(weights: np.ndarray, *, chain: Chain) -> np.ndarray:
    """The digits s = 0..b of ``|w| / g``, rounded to a multiple of ``2^-b``: bool (*weights.shape, b + 1)."""
    scaled = np.floor(np.abs(weights) / float(chain.gain) * 2.0**chain.digits + 0.5).astype(np.int64)
    bits: np.ndarray = (scaled[..., None] >> (chain.digits - np.arange(chain.digits + 1))) & 1 == 1
    return bits


def sources(t: int, *, chain: Chain, held: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """What each slot of hidden layer ``t`` adds, as :func:`fill` reads it: (slots, 2).

    Slots are ordered by kind and then by signal: both tops and the digits 1..t, or in the last hidden layer ``copies``
    times the digits 0..b.

    Args:
        t: from 0.
        chain: the sizes.
        held: (kinds, signals), the neuron of each slot of the layer before.
        inputs: (signals,), the entry of each signal in the first layer, -2 - j for the negative part of input j.
    """
    none = np.full(len(inputs), -1)
    if t == 0:
        return np.concatenate([np.stack([inputs, none], 1)] * 2)
    kinds = [0, 0, *range(1, t + 1)] if t < chain.digits else [*range(t + 1)] * chain.copies
    of_kind = {0: np.stack([held[0], held[1]], 1), 1: np.stack([held[0], none], 1)}
    of_kind |= {digit: np.stack([held[digit], none], 1) for digit in range(2, t + 1)}  # row r holds digit r - 1
    return np.concatenate([of_kind[kind] for kind in kinds])


def choose(values: np.ndarray, outer: np.ndarray, held: np.ndarray, *, chain: Chain, pieces: int) -> np.ndarray | None:
    """Which entries of the last layer are kept, bool (rows, neurons); None if a digit is not held with a sign.

    Args:
        values: the weights (rows, columns).
        outer: (rows, neurons), whether a sign of the last layer is +.
        held: (copies digits, signals), the neurons of the last hidden layer.
        chain: the sizes.
        pieces: 1, or 2 where inputs may be negative.
    """
    mask, columns = np.zeros(outer.shape, bool), values.shape[1]
    digits = digits_of(values, chain=chain).transpose(0, 2, 1)  # (rows, digits, columns)
    copies = held.reshape(chain.copies, chain.digits + 1, -1)
    for piece in range(pieces):
        places = copies[:, :, piece * columns : (piece + 1) * columns]
        for row, value in enumerate(values):
            fits = outer[row][places] == ((value > 0) == (piece == 0))
            wanted = digits[row]
            if (wanted & ~fits.any(axis=0)).any():
                return None
            first = np.take_along_axis(places, fits.argmax(axis=0)[None], axis=0)[0]
            mask[row, first[wanted]] = True
    return mask


def fill(sources: np.ndarray, positive: np.ndarray, taken: np.ndarray) -> int:
    """The loop: the greedy choice of one hidden layer; the number of slots that stay open.

    Args:
        sources: (slots, 2), the entries of the layer before that a slot adds, which must have sign +; -1 for none. In
            the first layer ``-2 - j`` asks for sign - at entry j.
        positive: (neurons, entries), whether a sign is +.
        taken: (slots,), set to the neuron of each slot, or -1.
    """
    slots, neurons = sources.shape[0], positive.shape[0]
    following = np.arange(1, slots + 2)  # the open slots as a linked list; place 0 stands before the first slot
    open_slots: int = slots
    taken[:] = -1
    for h in range(neurons):
        before, slot = 0, following[0]
        while slot <= slots:
            fits = True
            for k in range(2):
                s = sources[slot - 1, k]
                if s >= 0:
                    fits = fits and positive[h, s]
                elif s < -1:
                    fits = fits and not positive[h, -2 - s]
            if fits:
                taken[slot - 1] = h
                following[before] = following[slot]
                open_slots -= 1
                break
            before, slot = slot, following[slot]
        if open_slots == 0:
            break
    return open_slots
