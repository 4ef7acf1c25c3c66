"""The counting construction: a weight is a whole number of signs, each worth twice the accuracy (Diffenderfer 2021).

With accuracy e, an inner layer of gain 2e and an outer layer of gain 1, both of random signs B and U:

    w x  ~  sum over kept h of  U_h relu(2e B_h x)      c = round(|w| / 2e) neurons with U = +sign(w), B = + for x >= 0
                                                         and c with U = -sign(w), B = - for x < 0 (two pieces)

A random neuron fits one piece of one weight with probability 1/4. If all rows of a column share a block of neurons,
with inner signs of the block and outer signs of each row's own, a block of column j must be so large that

    P(Bin(m, 1/4) < max_i c_ij) <= delta / (weights times pieces)

and by the union bound all weights find their neurons with probability 1 - delta. The paper gives each weight a block of
its own, uses Hoeffding instead of the exact binomial, and rounds down; the differences are ours. What is built needs
fewer neurons still: :mod:`mpt.theory.pool`.
"""

from __future__ import annotations

import math

import numpy as np

FITS = 0.25  # probability that a random neuron has the inner and the outer sign that a piece needs


def blocks(counts: np.ndarray, *, pieces: int, failure: float, weights: int | None = None) -> np.ndarray:
    """Sizes of the blocks: the least m with ``P(Bin(m, 1/4) < c) <= failure / (weights pieces)``, c the column's most.

    Args:
        counts: (rows, columns), neurons that each weight needs for a piece.
        pieces: 2 where inputs may have any sign, 1 where they are never negative.
        failure: probability that some weight lacks neurons.
        weights: that share ``failure``; all of ``counts`` if None.

    Returns:
        (columns,), int64; 0 for a column that needs none.
    """
    each = failure / ((weights or counts.size) * pieces)
    return least_trials(counts.max(axis=0), probability=FITS, failure=each)


def least_trials(successes: np.ndarray, *, probability: float, failure: float) -> np.ndarray:
    """The least number m of trials with ``P(Bin(m, probability) < successes) <= failure``, int64; 0 for no success."""
    from scipy.special import betainc

    wanted = np.maximum(np.asarray(successes, np.int64), 1)
    low = wanted - 1  # too few trials
    high = np.ceil(4 * (wanted - 2 * math.log(failure)) / probability).astype(np.int64)  # enough, by Chernoff
    while (high - low > 1).any():
        middle = (low + high) // 2
        trials = np.maximum(middle, wanted)
        fails = betainc(trials - wanted + 1.0, wanted * 1.0, 1 - probability) > failure  # P(Bin(trials, p) < wanted)
        few = (middle < wanted) | fails
        low, high = np.where(few, middle, low), np.where(few, high, middle)
    return np.asarray(np.where(np.asarray(successes) > 0, high, 0), np.int64)


def gain_of(accuracy: float) -> np.float32:
    """The gain of the inner layer: the largest float32 of at most twice the accuracy, so that rounding stays within."""
    gain = np.float32(2 * accuracy)
    return gain if float(gain) <= 2 * accuracy else np.nextafter(gain, np.float32(0))


def counts_of(weights: np.ndarray, *, gain: float) -> np.ndarray:
    """``round(|w| / gain)`` as int64, of the shape of ``weights``."""
    return np.asarray(np.floor(np.abs(weights) / float(gain) + 0.5), np.int64)


def exact_neurons(accuracy: float, delta: float, *, rounded: bool) -> int:
    """Neurons that one weight a = 1 needs for inputs of any sign, with exact probabilities.

    ``A`` and ``B`` neurons fit the two pieces, out of m with probabilities 1/4, 1/4, 1/2: the least m with
    ``P(A >= c, B >= c) >= 1 - delta``.

    Args:
        accuracy: largest error of the weight.
        delta: probability of failure.
        rounded: rounding to the nearest multiple of twice the accuracy (ours) instead of down to one (the paper's).
    """
    c = round(1 / (2 * accuracy)) if rounded else math.floor(1 / accuracy + 1e-9)
    if c > 20_000:  # both pieces, by the union bound, which is then exact to a few parts in ten thousand
        return int(least_trials(np.array(c), probability=FITS, failure=delta / 2))
    low, high = 2 * c - 1, 2 * int(least_trials(np.array(c), probability=FITS, failure=delta / 2))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _both(middle, c) >= 1 - delta else (middle, high)
    return high


def _both(m: int, c: int) -> float:
    """``P(A >= c, B >= c)``: B is binomial among the m - A other neurons, with probability 1/3."""
    from scipy.stats import binom

    a = np.arange(c, m - c + 1)
    return float((binom.pmf(a, m, FITS) * binom.sf(c - 1, m - a, 1 / 3)).sum())
