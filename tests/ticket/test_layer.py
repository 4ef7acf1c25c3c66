from __future__ import annotations

import pytest
import torch

import mpt
from mpt import backbones
from mpt.search.layers import ticket_layers

METHODS = {"binary": mpt.Biprop(prune=0.8), "real": mpt.EdgePopup(prune=0.5, init="kaiming_normal")}


@pytest.fixture(params=METHODS)
def searched(request):
    net = mpt.convert(backbones.conv2(width=0.25, image_size=8), METHODS[request.param], seed=0)
    return net, mpt.Ticket.from_network(net), request.param


def test_a_stored_layer_has_the_mask_signs_gain_and_weight_of_the_network(searched):
    net, ticket, form = searched
    assert [layer.name for layer in ticket.layers] == list(ticket_layers(net))
    for name, layer in ticket_layers(net).items():
        stored = ticket.layer(name)
        mask, weight = layer.mask(), layer.ticket_weight().detach()
        assert stored.form == form
        assert torch.equal(stored.mask(), mask)
        assert torch.equal(stored.signs(), torch.sign(weight[mask]))
        assert torch.equal(stored.kept_values(), weight[mask])
        assert torch.equal(stored.weight(), weight)
        assert (stored.kept, stored.num_weights) == (int(mask.sum()), mask.numel())
        if form == "binary":
            assert torch.equal(stored.gain, layer.gain())


def test_the_header_rows_are_the_layers_and_states(searched):
    _, ticket, _ = searched
    assert [layer.row() for layer in ticket.layers] == ticket.header["layers"]
    assert [state.row() for state in ticket.others] == ticket.header["others"]
    with pytest.raises(ValueError, match="the ticket has no searched layer 'nope'"):
        ticket.layer("nope")
