from __future__ import annotations

import pytest
import torch

from mpt import backbones


@pytest.mark.parametrize(
    ("name", "weights"),
    [("conv2", 4_300_992), ("conv4", 2_425_024), ("conv6", 2_261_184), ("conv8", 5_275_840)],
)
def test_networks_have_the_published_number_of_weights(name, weights):
    assert sum(p.numel() for p in getattr(backbones, name)().parameters()) == weights


@pytest.mark.parametrize("name", ["conv2", "conv4", "conv6", "conv8"])
@pytest.mark.parametrize("batch", [1, 3])
def test_logits_have_one_row_an_image_and_one_column_a_class(name, batch):
    net = getattr(backbones, name)(width=0.25, num_classes=7, in_channels=1, image_size=20)
    assert net(torch.zeros(batch, 1, 20, 20)).shape == (batch, 7)


def test_width_multiplies_channels_and_hidden_layers_but_not_classes():
    shapes = [tuple(p.shape) for p in backbones.conv2(width=1.5).parameters()]
    assert shapes == [(96, 3, 3, 3), (96, 96, 3, 3), (384, 96 * 256), (384, 384), (10, 384)]


@pytest.mark.parametrize("width", [0, -1, 0.001, float("nan"), float("inf")])
def test_a_width_that_leaves_no_channel_is_refused(width):
    with pytest.raises(ValueError, match="width multiplies the channels"):
        backbones.conv2(width=width)


def test_an_image_too_small_for_the_pools_is_refused():
    with pytest.raises(ValueError, match="image_size must be at least 16 for conv8"):
        backbones.conv8(image_size=8)
    assert backbones.conv8(image_size=16)(torch.zeros(1, 3, 16, 16)).shape == (1, 10)
