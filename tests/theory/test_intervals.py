from __future__ import annotations

import pytest
import torch
from torch import nn

from mpt.theory.intervals import run, start
from mpt.theory.target import prepare
from tests.theory.networks import cnn, images, mlp, seeded


class Block(nn.Module):
    """An addition, a batch-norm that cannot be folded, and pools as functions."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.drop, self.out = nn.Dropout(), nn.Linear(3, 4)

    def forward(self, x):
        y = self.a(x)
        y = torch.relu(self.norm(y)) + y
        y = torch.cat([y[:, :1], y[:, 1:]], dim=1)
        y = torch.nn.functional.max_pool2d(self.b(y).relu(), 2)
        y = torch.max_pool2d(y, 3, stride=1, padding=1)
        y = torch.nn.functional.adaptive_avg_pool2d(y, 1)
        return self.out(self.drop(y.view(y.size(0), -1)))


@pytest.mark.parametrize("net", [mlp(), cnn(), seeded(Block)], ids=["mlp", "cnn", "block"])
def test_outputs_lie_between_the_bounds_of_the_box(net):
    net.image_size = getattr(net, "image_size", 8)
    x, target = images(net), prepare(net)
    state, seen = run(target, start(torch.zeros_like(x[:1]), torch.ones_like(x[:1])))
    y = target.net(x.double())
    assert (state.low <= y).all()
    assert (y <= state.high).all()
    assert seen.keys() == target.layers.keys()
    assert bool((state.error == 0).all())


def test_bounds_at_one_input_are_its_output():
    net = cnn()
    x, target = images(net, 5), prepare(net)
    state, _ = run(target, start(x, x))
    assert (state.high - state.low).max() < 1e-11
    assert ((state.low + state.high) / 2 - target.net(x.double())).abs().max() < 1e-12


def test_inputs_that_are_never_negative_are_known():
    x = torch.zeros(1, 1, 8, 8)
    _, seen = run(prepare(cnn()), start(x, x + 1))
    assert all(state.nonneg for state in seen.values())
    _, seen = run(prepare(cnn()), start(x - 1, x + 1))
    assert [state.nonneg for state in seen.values()] == [False, True, True]


@pytest.mark.parametrize(
    ("module", "words"),
    [(nn.GELU(), "no interval rule for GELU"), (nn.Sigmoid(), "no interval rule for Sigmoid")],
)
def test_an_operation_without_a_rule_is_named(module, words):
    net = nn.Sequential(nn.Linear(3, 3), module, nn.Linear(3, 2))
    x = torch.zeros(1, 3)
    with pytest.raises(ValueError, match=words):
        run(prepare(net), start(x, x))


def test_a_function_without_a_rule_is_named():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.scale = nn.Linear(3, 3), nn.Parameter(torch.ones(3))

        def forward(self, x):
            return self.call(self.a(x))

    x = torch.zeros(1, 3)
    for call, words in (
        (lambda self, y: torch.tanh(y), "tanh"),
        (lambda self, y: y * 2, "mul"),
        (lambda self, y: 2 - y, "sub"),
        (lambda self, y: torch.stack([y, y]), "stack"),
        (lambda self, y: y * self.scale, "scale directly"),
        (lambda self, y: (y, y), "one output"),
    ):
        Net.call = call
        with pytest.raises(ValueError, match=words):
            run(prepare(Net()), start(x, x))
