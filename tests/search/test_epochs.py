from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import mpt
from mpt import backbones
from mpt.search.layers import ticket_layers
from tests import reference


@pytest.mark.parametrize("selection", ["layerwise", "global", "calibrated"])
def test_a_ramp_prunes_more_every_epoch_and_its_end_is_the_ticket(mlp, selection):
    net = mpt.convert(mlp, mpt.Biprop(prune=0.8, selection=selection, ramp=4), seed=0).train()

    def density():
        net(torch.randn(2, 6))
        return sum(int(layer.mask().sum()) for layer in ticket_layers(net).values()) / 72

    assert density() == pytest.approx(0.2, abs=0.01)  # without start_epoch there is no ramp
    densities = []
    for epoch in range(6):
        mpt.start_epoch(net, epoch)
        densities.append(density())
        assert densities[-1] == pytest.approx(1 - reference.prune_in_epoch(0.8, epoch, 4), abs=0.01)
        if epoch < 4:
            with pytest.raises(ValueError, match=rf"epoch {epoch + 1} of the 4 .*no ticket yet, train on"):
                mpt.Ticket.from_network(net)
    assert densities == sorted(densities, reverse=True)
    assert mpt.Ticket.from_network(net).density == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("epoch", [-1, 1.5, True])
def test_an_epoch_is_a_whole_number(mlp, epoch):
    with pytest.raises(
        ValueError, match="epoch is the number of finished epochs and must be a whole number of at least 0"
    ):
        mpt.start_epoch(mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=0), epoch)


def test_ticket_weights_of_a_ramp_are_scaled_for_what_it_keeps_and_at_its_end_not_at_all(mlp):
    method = mpt.Biprop(prune=0.9, ramp=4)
    net = mpt.convert(mlp, method, seed=0).train()
    layer, x = net[0], torch.randn(5, 6)
    for epoch in range(6):
        mpt.start_epoch(net, epoch)
        scale = math.sqrt((1 - 0.9) / (1 - reference.prune_in_epoch(0.9, epoch, 4)))
        mask = layer.mask()
        assert layer.ramp_scale == pytest.approx(scale)
        assert (scale == 1) == (epoch >= 4)
        expected = scale * layer.weight.abs()[mask].mean()
        torch.testing.assert_close(layer.ticket_weight().abs()[mask], expected.expand(int(mask.sum())))
        torch.testing.assert_close(layer.gain(), expected)
        assert torch.equal(mpt.to_dense(net)(x), net(x))
        (ds,) = torch.autograd.grad(layer.ticket_weight().sum(), layer.scores)
        torch.testing.assert_close(ds, scale * layer.weight * torch.sign(layer.scores.detach()))


@pytest.mark.parametrize("choice", [{"scale_fan": "none"}, {"scale_fan": "published"}, {"ramp": 0}])
def test_a_ramp_scales_only_weights_that_were_drawn_for_what_is_kept(mlp, choice):
    net = mpt.convert(mlp, mpt.Biprop(**{"prune": 0.9, "ramp": 4, **choice}), seed=0)
    own = mpt.convert(mlp, mpt.Biprop(prune=0.9, ramp=4), seed=None)
    for each in (net, own):
        mpt.start_epoch(each, 0)
        assert [layer.ramp_scale for layer in ticket_layers(each).values()] == [1, 1]


def test_a_ramp_starts_at_the_loss_of_a_guess():
    images, labels = torch.randn(32, 3, 16, 16), torch.arange(32) % 10
    net = mpt.convert(backbones.conv4(width=0.25, image_size=16), mpt.Biprop(prune=0.9, ramp=5), seed=0).train()
    for epoch in range(6):
        mpt.start_epoch(net, epoch)
        with torch.no_grad():
            assert nn.functional.cross_entropy(net(images), labels) < 3  # without the factor 30 and more in epoch 0
