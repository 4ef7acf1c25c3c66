from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from mpt.theory import counting


@pytest.mark.parametrize(("accuracy", "down", "rounded"), [(0.1, 65, 38), (0.01, 471, 251), (0.001, 4218, 2155)])
def test_exact_neurons_of_one_weight(accuracy, down, rounded):
    assert counting.exact_neurons(accuracy, 0.05, rounded=False) == down
    assert counting.exact_neurons(accuracy, 0.05, rounded=True) == rounded


def test_exact_neurons_agree_with_draws():
    generator, c = np.random.default_rng(0), 10
    m = counting.exact_neurons(0.1, 0.05, rounded=False)
    a, b, _ = generator.multinomial(m, [0.25, 0.25, 0.5], size=20_000).T
    assert abs(((a >= c) & (b >= c)).mean() - 0.95) < 0.02
    a, b, _ = generator.multinomial(m - 3, [0.25, 0.25, 0.5], size=20_000).T
    assert ((a >= c) & (b >= c)).mean() < 0.95


@pytest.mark.parametrize("failure", [0.05, 1e-6])
@pytest.mark.parametrize("p", [0.25, 0.5])
def test_least_trials_are_the_least(failure, p):
    wanted = np.array([1, 2, 7, 40, 333])
    trials = counting.least_trials(wanted, probability=p, failure=failure)
    assert (binom.cdf(wanted - 1, trials, p) <= failure).all()
    assert (binom.cdf(wanted - 1, trials - 1, p) > failure).all()
    assert counting.least_trials(np.array(0), probability=p, failure=failure) == 0


def test_blocks_serve_the_largest_weight_of_each_column():
    counts = np.array([[1, 0, 5], [3, 0, 2]])
    sizes = counting.blocks(counts, pieces=2, failure=0.05)
    assert sizes[1] == 0
    for size, most in zip(sizes[[0, 2]], (3, 5), strict=True):
        assert binom.cdf(most - 1, size, 0.25) <= 0.05 / 12 < binom.cdf(most - 1, size - 1, 0.25)


@pytest.mark.parametrize("accuracy", [0.05, 0.01, 0.003, 1e-5])
def test_rounding_to_the_gain_stays_within_the_accuracy(accuracy):
    w = np.random.default_rng(0).uniform(-0.3, 0.3, 2000)
    gain = float(counting.gain_of(accuracy))
    assert abs(np.sign(w) * counting.counts_of(w, gain=gain) * gain - w).max() <= accuracy
