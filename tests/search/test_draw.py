from __future__ import annotations

import pytest
import torch
from torch import nn

import mpt
from mpt.search.draw import draw
from mpt.search.initializers import random_scores, random_weight

FROZEN = {"prune": 0.75, "pruned": 0.6, "locked": 0.5}


def test_layers_that_share_a_weight_share_the_pattern():
    backbone = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    backbone[2].weight = backbone[0].weight
    net = mpt.convert(backbone, mpt.PartlyFrozen(**FROZEN), example=torch.zeros(2, 8))
    assert torch.equal(net[0].pattern, net[2].pattern)
    assert torch.equal(net[0].mask(), net[2].mask())


@pytest.mark.parametrize("seed", [4, None])
def test_each_layer_draws_from_the_streams_of_its_name(seed):
    method = mpt.Biprop(prune=0.75, prune_layers={"b": 0.5})
    backbone = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    net = mpt.convert(backbone, mpt.Biprop(prune=0.5), seed=seed, example=torch.zeros(2, 6))
    own = net[0].weight.clone()
    draw({"a": net[0], "b": net[2], "plain": nn.Linear(3, 3)}, method, seed=seed)
    for name, layer, prune in (("a", net[0], 0.75), ("b", net[2], 0.5)):
        shape = layer.weight.shape
        drawn = random_weight(shape, seed=4, layer=name, init="kaiming_normal", scale_fan="kept", prune=prune)
        assert torch.equal(layer.scores, random_scores(shape, seed=seed or 0, layer=name))
        assert torch.equal(layer.weight, drawn) == (seed is not None)
        assert layer.pattern is None
    assert torch.equal(net[0].weight, own) == (seed is None)
