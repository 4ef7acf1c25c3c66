from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import mpt
from mpt.experiment.crossing import unlikely_to_change
from mpt.experiment.optim import lr_factors
from mpt.run.settings import Optim


@pytest.fixture
def net():
    """A layer of 16 weights before one of 4,096, and gradients of one step."""
    backbone = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1024))
    net = mpt.convert(backbone, mpt.Biprop(prune=0.8), seed=0, example=torch.randn(8, 4))
    net(torch.randn(32, 4, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    return net


def crossings(layer, optim, *, epochs, steps):
    """The formula at the head of crossing.py, by loops."""
    factor = lr_factors(epochs=epochs, schedule=optim.schedule)
    squares = sum(steps * (optim.lr * factor(epoch)) ** 2 for epoch in range(epochs))
    importance = layer.scores.detach().abs().numpy()
    total = 0.0
    for g in np.abs(layer.scores.grad.numpy()).flat:
        move = np.sqrt(squares) / (1 - optim.momentum) * g if optim.name == "sgd" else np.sqrt(squares) * (g > 0)
        total += min(0.1, move / (importance.max() - importance.min()))
    return total


@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("lr", [1e-9, 1e-6, 1e-5, 1e-4, 1e-3])
def test_layers_in_which_fewer_than_three_crossings_are_expected_are_named(net, name, lr):
    optim = Optim(name=name, lr=lr)
    few = [key for key in ("0", "2") if crossings(net[int(key)], optim, epochs=4, steps=50) < 3]
    said = unlikely_to_change(net, optim, epochs=4, steps=50)
    assert (f"the mask of {len(few)} of 2 searched layers" in said) if few else said == ""
    assert said.endswith(f"in 200 steps: {', '.join(few)}" if few else "")


def test_a_layer_of_few_weights_is_named_at_any_rate_and_a_large_one_is_not(net):
    assert unlikely_to_change(net, Optim(lr=10.0), epochs=100, steps=1000).endswith("in 100,000 steps: 0")


def test_nothing_is_said_of_layers_that_keep_everything_or_of_the_user_s_own_optimizer(net):
    assert unlikely_to_change(net, Optim(_target_="torch.optim.Rprop"), epochs=1, steps=1) == ""
    net.zero_grad()
    assert unlikely_to_change(net, Optim(lr=1e-9), epochs=1, steps=1) == ""
