from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import mpt
from mpt.search.layers import ticket_layers
from tests import reference

LAYERS = {
    "conv": (lambda: nn.Conv2d(4, 6, 3), (2, 4, 7, 7), 0),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 7, 7), 0),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 3), (2, 4, 5), 1),
    "transposed3d": (lambda: nn.ConvTranspose3d(4, 6, 3), (2, 4, 5, 5, 5), 1),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3), (2, 4, 5, 5), 1),
    "linear": (lambda: nn.Linear(12, 9), (2, 12), 0),
}


def converted(kind, **choices):
    make, shape, axis = LAYERS[kind]
    x = torch.randn(shape)
    return mpt.convert(make(), mpt.Biprop(prune=0.9, **choices), seed=0, example=x), x, axis


@pytest.mark.parametrize("kind", LAYERS)
def test_a_gain_for_each_channel_is_the_mean_of_what_the_channel_keeps_and_0_where_it_keeps_nothing(kind):
    net, x, axis = converted(kind, gains="channel")
    with torch.no_grad():
        net.scores.transpose(0, axis)[0] = 0  # the first channel keeps nothing
    mask = net.mask()
    expected = reference.channel_gains(net.weight.numpy(), mask.numpy(), dim=axis)
    torch.testing.assert_close(net.gain(), torch.from_numpy(expected).float())
    assert net.gain().flatten()[0] == 0
    expected = torch.from_numpy(reference.ticket_weight(net.weight.numpy(), mask.numpy(), expected)).float()
    torch.testing.assert_close(net.ticket_weight(), expected)
    net.train()(x).sum().backward()
    assert torch.isfinite(net.scores.grad).all()


@pytest.mark.parametrize("kind", LAYERS)
def test_learned_gains_start_as_the_layers_gain_and_get_the_gradient_of_their_channel(kind):
    net, _, axis = converted(kind, gains="learned")
    plain, _, _ = converted(kind)
    assert torch.equal(net.ticket_weight(), plain.ticket_weight())
    with torch.no_grad():
        net.log_gain.copy_(torch.linspace(-1, 1, net.log_gain.numel()).view_as(net.log_gain))
    net.train()
    weight = net.ticket_weight()
    assert torch.equal(weight, net.ticket().ticket_weight)  # in training and in evaluation, to the bit
    upstream = torch.randn_like(weight)
    weight.backward(upstream)
    others = [dim for dim in range(weight.dim()) if dim != axis]
    torch.testing.assert_close(net.log_gain.grad, (upstream * weight).sum(others, keepdim=True).detach())
    factor = net.log_gain.exp().detach()
    torch.testing.assert_close(net.scores.grad, upstream * factor * net.weight * torch.sign(net.scores.detach()))


def test_layers_that_share_a_weight_share_their_learned_gains():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x))

    net = mpt.convert(Twice(), mpt.Biprop(prune=0.5, gains="learned"), seed=0, example=torch.randn(2, 6))
    assert net.first.log_gain is net.second.log_gain
    assert sum("log_gain" in name for name, _ in net.named_parameters()) == 1
    copied = copy.deepcopy(net)
    assert copied.first.log_gain is copied.second.log_gain


@pytest.mark.parametrize("gains", ["channel", "learned"])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_ticket_and_a_dense_network_carry_the_gains(tmp_path, kind, gains):
    net, x, _ = converted(kind, gains=gains)
    if gains == "learned":
        with torch.no_grad():
            net.log_gain.uniform_(-1, 1)
    net.eval()
    dense = mpt.to_dense(net)
    assert torch.equal(dense(x), net(x))
    assert not any("gain" in name for name in dense.state_dict())
    mpt.Ticket.from_network(net).save(tmp_path / "t.safetensors")
    ticket = mpt.Ticket.load(tmp_path / "t.safetensors")
    back = ticket.network(LAYERS[kind][0]())
    assert torch.equal(back(x), net(x))
    assert ticket.layers[0].has_channel_gains
    assert ticket.header["signs"] == "seed"
    assert all(layer.log_gain is None for layer in ticket_layers(back).values())
