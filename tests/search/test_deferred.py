from __future__ import annotations

import pytest
import torch
from torch import nn

import mpt
from mpt.search.deferred import deferring
from mpt.search.layers import ticket_layers
from tests.own_methods import PerChannel


@pytest.fixture
def net():
    backbone = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    return mpt.convert(backbone, mpt.Biprop(prune=0.5), seed=0).train()


def gradients(net, x):
    """The scores' gradients of a plain backward, which are then cleared."""
    net(x).square().sum().backward()
    found = {name: layer.scores.grad for name, layer in ticket_layers(net).items()}
    net.zero_grad()
    return found


def test_backwards_wait_inside_with_what_their_gradient_needs(net):
    x = torch.randn(5, 6)
    expected, layers = gradients(net, x), ticket_layers(net)
    with deferring([layers["0"].scores, layers["2"].scores]) as lines:
        net(x).square().sum().backward()
    assert layers["0"].scores.grad is layers["2"].scores.grad is None
    assert torch.equal(layers["4"].scores.grad, expected["4"])
    for name in ("0", "2"):
        (waiting,) = lines[id(layers[name].scores)]
        assert torch.equal(waiting.gradient(), expected[name])
    gradients(net, x)
    net(x).square().sum().backward()
    assert torch.equal(layers["0"].scores.grad, expected["0"])  # outside, nothing waits


def test_scores_that_are_used_twice_get_the_gradient_of_both_uses(net):
    x = torch.randn(5, 6)
    twice = nn.Sequential(net[0], nn.ReLU(), net[2], nn.ReLU(), net[2])
    twice(x).square().sum().backward()
    expected = net[2].scores.grad
    twice.zero_grad()
    with deferring([net[2].scores]) as lines:
        twice(x).square().sum().backward()
    assert torch.equal(net[2].scores.grad, expected)
    assert lines[id(net[2].scores)] == []


@pytest.mark.parametrize("method", [mpt.Biprop(prune=0.5, power=2.0), PerChannel(prune=0.5, score_grad="gain")])
def test_own_formulas_and_powers(net, method):
    net, x = mpt.convert(mpt.to_dense(net), method, seed=0).train(), torch.randn(5, 6)
    expected, layer = gradients(net, x), net[0]
    with deferring([layer.scores]) as lines:
        net(x).square().sum().backward()
    (line,) = lines.values()
    actual = line[0].gradient() if line else layer.scores.grad
    assert bool(line) == (method.power == 1)
    assert torch.equal(actual, expected["0"])
