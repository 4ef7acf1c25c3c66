from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from mpt.theory.pool import _enough, pool_size, take


def draw(counts, *, neurons, seed):
    """Inner and outer signs of a pool, and the signs of the weights."""
    generator, (rows, columns) = np.random.default_rng(seed), counts.shape
    return (generator.random(shape) < 0.5 for shape in ((neurons, columns), (neurons, rows), (rows, columns)))


def taken(counts, *, neurons, pieces, seed):
    """The column that lacks neurons or -1, the mask, the owners, and what was drawn."""
    inner, outer, positive = draw(counts, neurons=neurons, seed=seed)
    mask, owner = np.zeros(outer.shape, bool), np.full(neurons, -1)
    return take(counts, positive, inner, outer, mask, owner, pieces), mask, owner, inner, outer, positive


def small(seed=0, shape=(6, 9)):
    return np.random.default_rng(seed).poisson(2.0, shape)


def test_the_law_of_a_column_is_that_of_draws():
    counts = small()
    law = _enough(counts, 40)
    generator = np.random.default_rng(1)
    fits = (generator.random((4000, 40, len(counts))) < 0.5).cumsum(axis=1)  # rows that fit among the first k neurons
    for column in range(counts.shape[1]):
        seen = (fits >= counts[:, column]).all(axis=2).mean(axis=0)
        assert np.abs(law[column, 1:] - seen).max() < 0.03
        for k in (0, 3, 11):
            assert law[column, k] == pytest.approx(np.prod(binom.sf(counts[:, column] - 1, k, 0.5)), abs=1e-12)


@pytest.mark.parametrize("pieces", [1, 2])
def test_each_weight_has_its_neurons_of_both_signs_and_no_neuron_two_columns(pieces):
    counts = small()
    column, mask, owner, inner, outer, positive = taken(
        counts, neurons=pool_size(counts, pieces=pieces, failure=0.01), pieces=pieces, seed=0
    )
    assert column == -1
    for row, j in np.ndindex(*counts.shape):
        mine = mask[:, row] & (owner == j)
        sign = inner[:, j] if positive[row, j] else ~inner[:, j]  # of the product with the outer sign
        above, below = mine & inner[:, j], mine & ~inner[:, j]
        assert above.sum() == counts[row, j]
        assert below.sum() == (counts[row, j] if pieces == 2 else 0)
        assert (outer[mine, row] == sign[mine]).all()


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_pool_is_large_enough_as_often_as_promised_and_not_much_larger(pieces):
    counts = small(shape=(12, 40))
    neurons = pool_size(counts, pieces=pieces, failure=0.3)
    failures = sum(taken(counts, neurons=neurons, pieces=pieces, seed=seed)[0] >= 0 for seed in range(60))
    assert failures <= 18
    fewer = int(0.75 * neurons)
    assert sum(taken(counts, neurons=fewer, pieces=pieces, seed=seed)[0] >= 0 for seed in range(10)) >= 8


def test_a_pool_that_is_too_small_names_the_column():
    assert taken(np.array([[0, 3]]), neurons=2, pieces=1, seed=0)[0] == 1


def test_weights_of_zero_need_a_pool_of_one():
    assert pool_size(np.zeros((3, 4), np.int64), pieces=2, failure=0.05) == 1
