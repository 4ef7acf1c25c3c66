"""Subset sums as layers: every weight is met, few weights take more numbers, and none is drawn again in vain."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mpt.search.initializers import random_weight
from mpt.theory import real
from mpt.theory.build import Job
from mpt.theory.construct import build_ticket
from mpt.theory.real import first_numbers, solve
from tests.theory.networks import cnn, mlp


@pytest.mark.parametrize("net", [mlp, cnn])
def test_real_weights_are_the_seed_s_times_a_power_of_two(net):
    ticket = build_ticket(net(), accuracy=0.05, form="real", seed=3).ticket
    assert ticket.header["signs"] == "seed"
    for layer in ticket.layers:
        shape = torch.Size(layer.shape)
        drawn = random_weight(shape, seed=3, layer=layer.name, init="kaiming_uniform", scale_fan="none", prune=0)
        ratio = (layer.kept_values() / drawn[layer.mask()]).unique()
        assert len(ratio) == 1
        assert np.log2(float(ratio)) % 1 == 0


def test_numbers_of_a_weight_start_at_the_logarithm():
    assert first_numbers(397_000, delta=0.05, keep="fewest") == 24
    assert first_numbers(10**12, delta=0.01, keep="fewest") == 40
    assert first_numbers(2368, delta=0.05, keep="fewest") == 17
    assert first_numbers(2368, delta=0.05, keep="closest") == 24


def drawn(rows=30, columns=20, n=32, seed=0):
    generator = np.random.default_rng(seed)
    u, v = generator.uniform(-0.5, 0.5, (rows, columns, n)), generator.uniform(0.1, 1, (columns, n))
    v[:, 24:] *= generator.random((columns, n - 24)) < 0.5  # some blocks have fewer neurons of a sign
    return generator.laplace(0, 0.1, (rows, columns)), u, v


@pytest.mark.parametrize("keep", ["fewest", "closest"])
def test_a_weight_that_misses_takes_more_numbers_of_its_block(keep):
    w, u, v = drawn()
    w[3, 4] = np.clip(u[3, 4] * v[4], 0, None)[:12].sum() + 0.05  # out of reach of its first numbers
    mask, error = solve(w, u, v, within=0.01, numbers=12, keep=keep)
    assert np.abs((mask * u * v).sum(2) - w).max() == pytest.approx(error.max())
    assert error.max() <= 0.01
    assert not (mask & (v == 0)).any()
    assert mask[3, 4, 12:].any()
    more = mask[..., 12:].any(2).mean()
    assert (more > 0.1) == (keep == "fewest")  # which looks at all numbers for the smallest subsets


def test_what_no_number_of_the_block_reaches_is_left_at_once(monkeypatch):
    w, u, v = drawn()
    w[:] = 100.0
    monkeypatch.setattr(real, "closest", None)
    assert np.isinf(solve(w, u, v, within=0.01, numbers=12, keep="closest")[1]).all()


def test_only_a_layer_that_misses_is_drawn_again(monkeypatch):
    calls, pair = [], real.pair

    def first_one_missing(job, width, advance, **choices):
        calls.append((job.name, choices["numbers"]))
        advance(3)
        return 0.5 if len(calls) == 1 else pair(job, width, advance, **choices)

    monkeypatch.setattr(real, "pair", first_one_missing)
    made = build_ticket(mlp(), accuracy=0.05, form="real")
    assert calls == [("classifier.0", 14), ("classifier.0", 28), ("classifier.2", 14)]
    assert made.ticket.header["constructed"]["numbers"] == 28


def test_small_weights_take_smaller_numbers_and_so_fewer():
    layer = torch.nn.Linear(40, 50, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.random.default_rng(0).laplace(0, 0.03, (50, 40))))
        layer.weight[0, 0] = 1.0
    job = Job("l", layer, 0.01, 1, 0.05, 0)
    assert real.reach_of(job, numbers=20, keep="closest") == 1
    assert real.reach_of(job, numbers=20, keep="fewest") < 0.6
    equal = torch.nn.Linear(40, 50, bias=False)
    torch.nn.init.constant_(equal.weight, 0.8)
    assert real.reach_of(Job("l", equal, 0.01, 1, 0.05, 0), numbers=20, keep="fewest") == pytest.approx(0.8)
