from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mpt
from mpt.search.scales import scales_near_zero


class Block(nn.Module):
    """A residual block with one scale, used as ``way`` says, and shifts near zero that are no scales."""

    def __init__(self, way, value):
        super().__init__()
        self.way, self.fc, self.head = way, nn.Linear(8, 8), nn.Linear(8, 3)
        self.gamma = nn.Parameter(torch.full((1,) if way in ("gate", "in_place") else (8,), value))
        self.shift = nn.Parameter(torch.full((8,), value))
        self.token = nn.Parameter(torch.full((1, 8), value))

    def forward(self, x):
        y = F.relu(self.fc(x + self.shift))
        if self.way == "multiply":
            y = self.gamma * y
        elif self.way == "view":
            y = y.mul(self.gamma.view(1, -1))
        elif self.way == "gate":
            y = torch.tanh(self.gamma) * y
        elif self.way == "in_place":
            y = y.clone().mul_(self.gamma)
        elif self.way == "norm":
            y = F.layer_norm(y, (8,), self.gamma, self.shift)
        elif self.way == "keyword":
            y = F.rms_norm(y, (8,), weight=self.gamma)
        elif self.way == "addcmul":
            return self.head(torch.addcmul(x, self.gamma, y))
        elif self.way == "one_plus":
            y = (1 + self.gamma) * y
        return self.head(torch.cat([x + y, self.token.expand(1, -1)]))


SCALES = ["multiply", "view", "gate", "in_place", "norm", "keyword", "addcmul"]


@pytest.mark.parametrize("way", SCALES)
@pytest.mark.parametrize("value", [0.0, 1e-6])
def test_a_seed_starts_a_scale_near_zero_at_one_and_leaves_shifts_alone(way, value):
    backbone, x = Block(way, value), torch.randn(4, 8)
    net = mpt.convert(backbone, mpt.Biprop(prune=0.5), seed=0, example=x)
    assert bool((net.gamma == 1).all())
    assert bool((backbone.gamma == value).all())
    assert bool((net.shift == value).all())
    assert bool((net.token == value).all())
    assert not net.gamma.requires_grad


@pytest.mark.parametrize(("way", "value"), [("multiply", 0.1), ("one_plus", 0.0), ("none", 0.0)])
def test_a_parameter_that_starves_nothing_keeps_its_value(way, value):
    net = mpt.convert(Block(way, value), mpt.Biprop(prune=0.5), seed=0, example=torch.randn(4, 8))
    assert bool((net.gamma == value).all())


def test_the_search_for_scales_changes_nothing():
    net = mpt.convert(Block("multiply", 1.0), mpt.Biprop(prune=0.5), seed=0, example=torch.randn(4, 8))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.gamma.data.fill_(1e-7)
    assert scales_near_zero(net, (torch.randn(4, 8),)) == ["gamma"]
    net.gamma.data.fill_(1.0)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_dense_layer_with_small_values_is_no_scale():
    class Left(nn.Sequential):
        def forward(self, x):
            return super().forward(x)

    backbone = Left(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    backbone[2].weight.data.fill_(1e-3)
    net = mpt.convert(backbone, mpt.Biprop(prune=0.5), seed=0, dense=["2"])
    assert bool((net[2].weight == 1e-3).all())
