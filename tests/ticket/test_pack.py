from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import mpt
from mpt import backbones
from mpt.search.layers import ticket_layers


def backbone():
    return backbones.conv2(width=0.25, image_size=8)


@pytest.mark.parametrize("init", ["kaiming_normal", "signed_constant", "unsigned_constant"])
@pytest.mark.parametrize("method", [mpt.Biprop, mpt.EdgePopup])
def test_the_header_says_that_the_signs_of_a_search_are_the_seeds(method, init):
    net = mpt.convert(backbone(), method(prune=0.8, init=init), seed=3)
    assert mpt.Ticket.from_network(net).header["signs"] == "seed"
    layer = next(iter(ticket_layers(net).values()))
    layer.weight[layer.mask().nonzero()[0].unbind()] *= -1  # one kept weight
    assert mpt.Ticket.from_network(net).header["signs"] == "stored"


def test_signs_without_a_seed_are_stored():
    assert (
        mpt.Ticket.from_network(mpt.convert(backbone(), mpt.Biprop(prune=0.8), seed=None)).header["signs"] == "stored"
    )


@dataclass(frozen=True, kw_only=True)
class ChannelGains(mpt.Biprop):
    """Biprop with one gain for each output channel."""

    def gain(self, weight, mask):
        axes = tuple(range(1, weight.dim()))
        return (weight.abs() * mask).sum(axes, keepdim=True) / mask.sum(axes, keepdim=True).clamp_min(1)


def test_a_method_with_a_gain_for_each_channel_comes_back_from_its_file_to_the_bit(tmp_path):
    net = mpt.convert(backbone(), ChannelGains(prune=0.8), seed=0).eval()
    mpt.Ticket.from_network(net).save(tmp_path / "t")
    ticket, x = mpt.Ticket.load(tmp_path / "t"), torch.randn(2, 3, 8, 8)
    assert torch.equal(ticket.network()(x), net(x))
    assert ticket.header["signs"] == "seed"
    assert mpt.Ticket.from_network(ticket.network()).header["layers"] == ticket.header["layers"]


def test_a_complex_buffer_is_refused():
    plain = nn.Sequential(nn.Linear(4, 4))
    plain.register_buffer("phase", torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(ValueError, match="phase is complex, which a ticket cannot hold"):
        mpt.Ticket.from_network(mpt.convert(plain, mpt.Biprop(prune=0.5), seed=0))


def test_a_layer_that_keeps_nothing_is_refused_by_its_name():
    net = mpt.convert(backbone(), mpt.Biprop(prune=0.8, selection="calibrated"), seed=0)
    net.features[0].scores.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="Biprop keeps none of the 432 weights of layer"):
        mpt.Ticket.from_network(net)


@pytest.mark.parametrize("coats", [[0.5, 0.2], [0.999, 0.3]], ids=["nested", "of a mask twice"])
def test_nested_masks_stay_so_in_a_network_from_a_file(tmp_path, coats):
    net = mpt.convert(backbone(), mpt.Multicoated(prune=0.8, coats=coats), seed=0)
    ticket = mpt.Ticket.from_network(net)
    assert {layer.form for layer in ticket.layers} == {"coated"}
    again = mpt.Ticket.from_network(ticket.network())
    assert again.header["layers"] == ticket.header["layers"]
    assert all(torch.equal(again.weight(layer.name), layer.weight()) for layer in ticket.layers)
