from __future__ import annotations

import pytest
import torch

from mpt import backbones


def test_the_default_mlp_has_the_published_number_of_weights():
    assert sum(p.numel() for p in backbones.mlp().parameters()) == 266_200


def test_hidden_sets_the_hidden_layers_and_width_multiplies_them():
    net = backbones.mlp(hidden=(8, 6, 4), width=1.5, num_classes=3, in_channels=2, image_size=5)
    assert [tuple(p.shape) for p in net.parameters()] == [(12, 50), (9, 12), (6, 9), (3, 6)]
    assert net(torch.zeros(1, 2, 5, 5)).shape == (1, 3)
    assert [p.shape for p in backbones.build(net.origin).parameters()] == [p.shape for p in net.parameters()]


def test_a_width_that_leaves_no_feature_is_refused():
    with pytest.raises(ValueError, match="width multiplies the channels"):
        backbones.mlp(width=0.005)
