"""One pool of random neurons for all weights of a layer: each neuron is taken by one column, when its sign is known.

The counting construction (:mod:`mpt.theory.counting`) needs of each column j, for each piece, neurons h whose inner
sign B_hj is the piece's, so many that every row i finds c_ij with the outer sign of its weight. The paper gives every
weight a block of neurons. Here the columns take theirs one after the other: a column goes through the neurons that no
column has taken, and takes those of its inner sign, until each row has enough. This theorem is ours:

    m    neurons that a column takes for a piece:  P(m <= k) = prod_i P(Bin(k, 1/2) >= c_ij), independently, because no
         neuron is taken twice, and the outer signs of a neuron are read by no other column than the one that takes it
    S    their sum:  P(S > s) <= exp(-t s) prod E exp(t m)  for each t > 0 (Chernoff)
    r    left over at least, when the last column begins: among m + r free neurons, each of which has the wanted inner
         sign with probability 1/2, a column finds its m

A pool of s + r neurons holds all weights with probability 1 - delta. One half of delta is for S > s, a quarter for
columns that do not find their m among the free neurons, and a quarter for the tails of m, which are cut off.
"""

from __future__ import annotations

import math

import numpy as np

from mpt.theory.counting import least_trials

RATES = np.geomspace(0.003, 3, 40)  # values of t that the Chernoff bound is minimised over


def pool_size(counts: np.ndarray, *, pieces: int, failure: float) -> int:
    """Neurons of a pool in which all weights of a layer find theirs with probability ``1 - failure``.

    Args:
        counts: int64 (rows, columns), neurons c_ij that each weight needs for a piece.
        pieces: 2 where inputs may have any sign, 1 where they are never negative.
        failure: probability, over seeds, that some weight lacks neurons.

    Returns:
        At least 1; s + r of the module's text.
    """
    from scipy.special import logsumexp

    busy = counts[:, counts.any(axis=0)]
    if busy.size == 0:
        return 1
    slots = busy.shape[1] * pieces
    most = int(least_trials(np.array(busy.max()), probability=0.5, failure=failure / (4 * busy.size * pieces)))
    reserve = int(least_trials(np.array(most), probability=0.5, failure=failure / (4 * slots))) - most
    with np.errstate(divide="ignore"):
        taken = np.log(np.diff(_enough(busy, most), axis=1, prepend=0).clip(0))  # log P(m = k), (columns, most + 1)
    k = np.arange(most + 1)
    sums = [(pieces * logsumexp(t * k + taken, axis=1).sum() - math.log(failure / 2)) / t for t in RATES]
    return math.ceil(float(min(sums))) + reserve


def _enough(counts: np.ndarray, most: int) -> np.ndarray:
    """``P(m <= k)`` for k = 0 .. ``most``, (columns, most + 1)."""
    from scipy.special import betainc

    kinds, which = np.unique(counts, return_inverse=True)
    columns = counts.shape[1]
    places = np.arange(columns) * len(kinds) + which.reshape(counts.shape)
    rows = np.bincount(places.ravel(), minlength=columns * len(kinds)).reshape(columns, -1)  # of each kind
    c, k = kinds[:, None], np.arange(most + 1)
    trials = np.maximum(k - c + 1, 1)
    fits = np.where(c == 0, 1.0, np.where(k >= c, betainc(np.maximum(c, 1), trials, 0.5), 0.0))  # P(Bin(k, 1/2) >= c)
    with np.errstate(divide="ignore"):
        return np.asarray(np.exp(rows @ np.maximum(np.log(fits), -1e9)))


def take(
    counts: np.ndarray, positive: np.ndarray, inner: np.ndarray, outer: np.ndarray,
    mask: np.ndarray, owner: np.ndarray, pieces: int,
) -> int:  # fmt: skip
    """The loop over columns and free neurons.

    Args:
        counts, positive: (rows, columns) of the weights: how many neurons, and whether the weight is positive.
        inner: (neurons, columns), whether an inner sign is +.
        outer: (neurons, rows), whether an outer sign is +.
        mask: (neurons, rows), set to the outer entries kept.
        owner: (neurons,), set to the column that takes each neuron.
        pieces: 1 or 2.

    Returns:
        A column that lacks neurons, or -1.
    """
    rows, columns = counts.shape
    neurons = len(inner)
    following = np.arange(1, neurons + 2)  # of each free neuron the next one; the last entry is the first of all
    following[neurons] = 0
    need = np.empty(rows, np.int64)
    for column in range(columns):
        for piece in range(pieces):
            sign, lacking = piece == 0, 0  # inner signs of the first piece are +
            for row in range(rows):
                need[row] = counts[row, column]
                lacking += need[row] > 0
            before = neurons
            while lacking > 0:
                h = following[before]
                if h == neurons:
                    return column
                if inner[h, column] != sign:
                    before = h
                    continue
                following[before] = following[h]
                owner[h] = column
                for row in range(rows):
                    if need[row] > 0 and outer[h, row] == (positive[row, column] == sign):
                        mask[h, row] = True
                        need[row] -= 1
                        lacking -= need[row] == 0
    return -1
