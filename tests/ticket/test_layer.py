from __future__ import annotations

import pytest
import torch
from torch import nn

import mpt
from mpt import backbones
from mpt.search.layers import ticket_layers
from mpt.ticket.check import check_tensors
from mpt.ticket.coding import entropy
from mpt.ticket.format import encode

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


@pytest.fixture
def coated():
    backbone = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 5))
    net = mpt.convert(backbone, mpt.Multicoated(prune=0.5, coats=[0.3, 0.1]), seed=2, example=torch.zeros(2, 40)).eval()
    return backbone, net, mpt.Ticket.from_network(net)


def test_nested_masks_are_stored_over_the_weights_of_the_mask_before(tmp_path, coated):
    backbone, net, ticket = coated
    for layer, source in zip(ticket.layers, (net[0], net[2]), strict=True):
        kept = layer.num_weights // 2
        assert (layer.form, layer.kept, layer.coats) == (
            "coated",
            kept,
            (int(0.3 * kept + 0.5), int(0.1 * kept + 0.5)),
        )
        assert torch.equal(layer.weight(), source.ticket_weight())
        bits = entropy(layer.num_weights, kept) + entropy(kept, layer.coats[0]) + entropy(*layer.coats) + 32
        assert layer.entropy_bits(seed_signs=True) == pytest.approx(bits)
    assert ticket.header["format"] == 3
    assert ticket.header["signs"] == "seed"
    ticket.save(tmp_path / "t.safetensors")
    again = mpt.Ticket.load(tmp_path / "t.safetensors")
    assert again.digest == ticket.digest
    x = torch.randn(3, 40)
    assert torch.equal(again.network(backbone)(x), net(x))
    with pytest.raises(ValueError, match=r"several masks, does not fit into format 2: write format 3"):
        ticket.save(tmp_path / "two.safetensors", format=2)


@pytest.mark.parametrize("coats", [[], [700], [10, 20], [0], ["3"], [1] * 20, None])
def test_impossible_numbers_of_nested_masks_are_refused(coated, coats):
    _, _, ticket = coated
    rows = [{**ticket.header["layers"][0], "coats": coats}, *ticket.header["layers"][1:]]
    with pytest.raises(ValueError, match="entry of a layer"):
        encode(ticket.header | {"layers": rows}, ticket.tensors)


@pytest.mark.parametrize("change", ["shorter", "longer", "other", "missing", "gains"])
def test_nested_masks_that_are_not_what_the_header_says_are_refused(coated, change):
    _, _, ticket = coated
    coats = ticket.tensors["0.coats"]
    parts = {"shorter": coats[:-1], "longer": torch.cat([coats, coats[:1]]), "other": 255 - coats}
    changed = {"0.gain": torch.ones(30, 1)} if change == "gains" else {"0.coats": parts.get(change)}
    tensors = {name: value for name, value in (ticket.tensors | changed).items() if value is not None}
    with pytest.raises(ValueError, match=r"0\.coats|gain of 0"):
        check_tensors(ticket.header, tensors)
