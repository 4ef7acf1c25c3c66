from __future__ import annotations

import pytest
import torch
from torch import nn

from mpt import backbones


def test_each_layer_becomes_random_layers_with_relu_between():
    net = backbones.conv2(width=0.25, image_size=8)
    big = backbones.expanded(of=net.origin, hidden={"features.0": 20, "classifier.4": [30, 40]})
    assert [type(part).__name__ for part in big.features[0]] == ["Conv2d", "ReLU", "Conv2d"]
    assert [tuple(part.weight.shape) for part in big.features[0][::2]] == [(20, 3, 1, 1), (16, 20, 3, 3)]
    assert [tuple(part.weight.shape) for part in big.classifier[4][::2]] == [(30, 64), (40, 30), (10, 40)]
    assert big(torch.zeros(2, 3, 8, 8)).shape == (2, 10)
    assert backbones.build(big.origin).state_dict().keys() == big.state_dict().keys()


def test_a_folded_batchnorm_becomes_the_bias_of_the_layer_before():
    net = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.ReLU())
    big = backbones.expanded(of=net, hidden={"0": 5}, folded={"1": "0"})
    assert isinstance(big[1], nn.Identity)
    assert big[0][2].bias is not None
    assert big[0][0].bias is None
    assert big.origin is None
    assert isinstance(net[1], nn.BatchNorm2d)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"hidden": {"nope": 3}}, "has no 'nope'"),
        ({"hidden": {"": 3}}, "has no ''"),
        ({"hidden": {"classifier.1": 3}}, "is ReLU: only Linear and Conv2d"),
        ({"hidden": {"classifier.0": 0}}, "each at least 1"),
        ({"hidden": {"classifier.0": []}}, "each at least 1"),
        ({"hidden": {}, "folded": {"nope": "classifier.0"}}, "has no 'nope'"),
    ],
)
def test_what_cannot_be_expanded_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        backbones.expanded(of=backbones.mlp(image_size=4).origin, **arguments)


def test_an_expanded_network_is_not_expanded_again():
    big = backbones.expanded(of=backbones.mlp(image_size=4).origin, hidden={"classifier.0": 3})
    with pytest.raises(ValueError, match="names an expanded network"):
        backbones.expanded(of=big.origin, hidden={"classifier.2": 3})
