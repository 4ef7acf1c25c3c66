"""Nothing but masks and one gain a layer is chosen: signs and magnitudes are the seed's own."""

from __future__ import annotations

import numpy as np
import pytest

from mpt.search.initializers import random_signs
from mpt.theory.construct import build_ticket
from tests.theory.networks import cnn, mlp

FORMS = [(mlp, "binary"), (mlp, "doubling"), (cnn, "binary"), (cnn, "doubling")]


@pytest.mark.parametrize(("net", "form"), FORMS)
def test_kept_signs_are_the_seed_s_and_each_layer_has_one_gain(net, form):
    ticket = build_ticket(net(), accuracy=0.05, form=form, seed=3).ticket
    assert ticket.header["signs"] == "seed"
    for layer in ticket.layers:
        drawn = random_signs(layer.num_weights, seed=3, layer=layer.name)[layer.mask().flatten().numpy()]
        assert np.array_equal(layer.signs().numpy(), drawn)
        assert layer.form == "binary"
        assert layer.gain.dim() == 0


def test_gains_of_the_counting_pair_are_twice_the_accuracy_and_one():
    ticket = build_ticket(mlp(), accuracy=0.05).ticket
    assert [round(float(layer.gain), 6) for layer in ticket.layers] == [0.1, 1, 0.1, 1]


def test_gains_of_the_doubling_chain_are_one_then_halves():
    ticket = build_ticket(mlp(), accuracy=0.05, form="doubling").ticket
    gains = [float(layer.gain) for layer in ticket.layers if layer.name.startswith("classifier.0.")]
    assert gains[0] == 1
    assert set(gains[1:-1]) == {0.5}


def test_an_inner_neuron_keeps_one_input():
    ticket = build_ticket(cnn(), accuracy=0.05).ticket
    for layer in ticket.layers:
        if layer.name.endswith(".0"):
            assert int(layer.mask().flatten(1).sum(1).max()) == 1


@pytest.mark.slow
def test_most_seeds_build_at_delta():
    """Of 20 seeds at delta = .05 at least 18 build; the union bound makes failures rarer still."""
    assert len(refusals(mlp(), seeds=20, delta=0.05)) <= 2


def refusals(net, *, seeds, delta):
    """The sentences with which seeds refuse to build ``net``."""
    found = []
    for seed in range(seeds):
        try:
            build_ticket(net, accuracy=0.05, delta=delta, seed=seed)
        except ValueError as error:
            found.append(str(error))
    return found


@pytest.mark.slow
def test_a_seed_without_the_neurons_is_named():
    found = refusals(mlp(hidden=(2,), side=1), seeds=40, delta=0.999)
    assert found
    assert all("misses neurons for input" in text and "take another seed or a smaller delta" in text for text in found)
