from __future__ import annotations

import numpy as np
import pytest

from mpt.theory import doubling
from mpt.theory.doubling import fill, plan, spare


@pytest.mark.parametrize("accuracy", [0.2, 0.05, 0.01, 1e-4])
def test_the_digits_of_a_weight_are_within_the_accuracy(accuracy):
    chain = plan(accuracy=accuracy, largest=0.7, signals=3, rows=4, failure=0.05)
    w = np.append(np.random.default_rng(0).uniform(-0.7, 0.7, 999), 0.7)
    digits = doubling.digits_of(w, chain=chain)
    value = float(chain.gain) * digits @ 2.0 ** -np.arange(chain.digits + 1)
    assert abs(value - abs(w)).max() <= accuracy
    assert len(chain.widths) == chain.digits + 1


def test_width_grows_with_the_logarithm_of_the_accuracy():
    widest = [max(plan(accuracy=e, largest=1.0, signals=2, rows=1, failure=0.05).widths) for e in (1e-2, 1e-4, 1e-8)]
    assert widest[2] / widest[0] < 10
    assert widest == sorted(widest)


def test_the_greedy_choice_fills_its_slots_as_often_as_promised():
    slots, failure, draws = 30, 0.1, 400
    neurons = slots + spare(slots, alike=1, fits=0.5, failure=failure)
    sources = np.stack([np.arange(slots), np.full(slots, -1)], 1)
    generator, failed, taken = np.random.default_rng(0), 0, np.empty(slots, np.int64)
    for _ in range(draws):
        failed += fill(sources, generator.random((neurons, slots)) < 0.5, taken) > 0
    assert failed / draws <= failure
    assert len(set(taken)) == slots or failed


def test_a_slot_takes_a_neuron_with_the_signs_it_asks_for():
    sources, taken = np.array([[0, 1], [-2, -1], [1, -1]]), np.empty(3, np.int64)
    positive = np.array([[True, False], [False, True], [True, True], [False, False]])
    assert fill(sources, positive, taken) == 1
    assert taken.tolist() == [2, 1, -1]
    assert fill(sources, positive[[0, 1, 2, 2]], taken) == 0
    assert taken.tolist() == [2, 1, 3]


def test_a_chain_has_a_most():
    with pytest.raises(ValueError, match="more than 40 digits"):
        plan(accuracy=1e-15, largest=1.0, signals=1, rows=1, failure=0.05)
