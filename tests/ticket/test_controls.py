from __future__ import annotations

import pytest
import torch
from torch import nn

import mpt
from mpt import backbones
from mpt.search.layers import ticket_layers
from mpt.ticket.controls import CONTROLS, control
from tests.ticket.test_pack import ChannelGains


@pytest.fixture
def ticket():
    return mpt.Ticket.from_network(
        mpt.convert(backbones.conv2(width=0.25, image_size=8), mpt.Biprop(prune=0.8), seed=0)
    )


def agreement(a, b, name):
    return float((a.mask(name) & b.mask(name)).sum() / b.mask(name).sum())


def signs(ticket, name):
    return torch.sign(ticket.weight(name))


def test_a_shuffled_mask_keeps_counts_signs_and_gains_and_moves_the_weights(ticket):
    shuffled = control(ticket, "shuffled_mask", seed=1)
    assert shuffled.num_kept == ticket.num_kept
    for row in ticket.header["layers"]:
        name = row["name"]
        assert int(shuffled.mask(name).sum()) == row["kept"]
        assert torch.equal(shuffled.tensors[f"{name}.signs"], ticket.tensors[f"{name}.signs"])
        assert agreement(shuffled, ticket, name) < 0.4 or row["kept"] < 100  # by chance 0.2


def test_a_random_mask_is_drawn_over_the_whole_network_at_its_density_and_keeps_its_weights(ticket):
    drawn = control(ticket, "random_mask", seed=1)
    assert drawn.num_kept == ticket.num_kept
    kept = [row["kept"] for row in drawn.header["layers"]]
    assert kept != [row["kept"] for row in ticket.header["layers"]]  # not layer by layer
    for row in drawn.header["layers"]:
        assert int(drawn.mask(row["name"]).sum()) == row["kept"] >= 1
        assert agreement(drawn, ticket, row["name"]) < 0.4 or row["kept"] < 100
    both = drawn.mask("classifier.0") & ticket.mask("classifier.0")  # one network, two masks
    assert torch.equal(signs(drawn, "classifier.0")[both], signs(ticket, "classifier.0")[both])


def test_a_random_mask_keeps_the_weights_of_layers_with_a_fraction_of_their_own():
    method = mpt.EdgePopup(prune=0.7, init="kaiming_normal", prune_layers={"classifier.*": 0.9})
    found = mpt.Ticket.from_network(mpt.convert(backbones.conv2(width=0.25, image_size=8), method, seed=0))
    drawn = control(found, "random_mask", seed=0)
    for row in found.header["layers"]:
        both = drawn.mask(row["name"]) & found.mask(row["name"])
        assert torch.equal(drawn.weight(row["name"])[both], found.weight(row["name"])[both])


def test_a_random_mask_draws_fresh_weights_where_the_signs_are_not_the_seeds(ticket):
    net = ticket.network()
    for layer in ticket_layers(net).values():
        layer.weight.neg_()
    redrawn = mpt.Ticket.from_network(net)
    drawn = control(redrawn, "random_mask", seed=1)
    assert (redrawn.header["signs"], drawn.header["signs"]) == ("stored", "stored")
    assert control(ticket, "random_mask", seed=1).header["signs"] == "seed"
    for origin in (ticket, redrawn):
        both = drawn.mask("classifier.0") & origin.mask("classifier.0")
        same = (signs(drawn, "classifier.0") == signs(origin, "classifier.0"))[both].float().mean()
        assert 0.3 < same < 0.7


def test_a_ticket_of_mpt_0_1_0_which_does_not_say_whose_its_signs_are_has_its_seeds_weights(ticket):
    header = {key: value for key, value in ticket.header.items() if key != "signs"}
    old = mpt.Ticket(header, ticket.tensors)
    assert old.weight_seed == 0
    drawn, expected = (control(one, "random_mask", seed=1) for one in (old, ticket))
    assert all(torch.equal(drawn.tensors[name], value) for name, value in expected.tensors.items())


@pytest.mark.filterwarnings("ignore::mpt.search.dead.DeadLayers")  # next to nothing is kept
def test_a_random_mask_of_very_few_weights_leaves_one_in_each_layer():
    sparse = mpt.Ticket.from_network(
        mpt.convert(backbones.conv2(width=0.25, image_size=8), mpt.Biprop(prune=0.9999), seed=0)
    )
    for seed in range(5):
        drawn = control(sparse, "random_mask", seed=seed)
        assert drawn.num_kept == sparse.num_kept
        assert min(row["kept"] for row in drawn.header["layers"]) == 1


def test_fresh_weights_keep_the_mask_and_redraw_the_signs(ticket):
    fresh = control(ticket, "fresh_weights", seed=0)  # the ticket's own seed gives other signs too
    for row in ticket.header["layers"]:
        mask = ticket.mask(row["name"])
        assert torch.equal(fresh.mask(row["name"]), mask)
        same = (signs(fresh, row["name"]) == signs(ticket, row["name"]))[mask].float().mean()
        assert 0.3 < same < 0.7
        assert torch.equal(fresh.tensors[f"{row['name']}.gain"], ticket.tensors[f"{row['name']}.gain"])


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize("method", [mpt.Biprop(prune=0.8), mpt.EdgePopup(prune=0.5, init="kaiming_normal")])
def test_a_control_is_a_ticket_whose_file_is_whole_and_follows_from_its_seed(tmp_path, method, name):
    ticket = mpt.Ticket.from_network(mpt.convert(backbones.conv2(width=0.25, image_size=8), method, seed=0))
    made = control(ticket, name, seed=3)
    made.save(tmp_path / "t")
    assert mpt.Ticket.load(tmp_path / "t").network()(torch.randn(2, 3, 8, 8)).isfinite().all()
    again, other = control(ticket, name, seed=3), control(ticket, name, seed=4)
    assert all(torch.equal(again.tensors[key], value) for key, value in made.tensors.items())
    assert not all(torch.equal(other.weight(row["name"]), made.weight(row["name"])) for row in made.header["layers"])


@pytest.mark.filterwarnings("ignore::mpt.search.dead.DeadLayers")  # next to nothing is kept
@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_keeps_a_gain_for_each_channel_and_gives_one_to_channels_without_a_weight(tmp_path, name):
    method = ChannelGains(prune=0.99)
    ticket = mpt.Ticket.from_network(mpt.convert(backbones.conv2(width=0.25, image_size=8), method, seed=0))
    made = control(ticket, name, seed=3)
    made.save(tmp_path / "t")
    again = mpt.Ticket.load(tmp_path / "t")
    assert any(layer.has_channel_gains and (layer.gain == 0).any() for layer in ticket.layers)
    for before, after in zip(ticket.layers, again.layers, strict=True):
        assert (after.kept_values() != 0).all()
        if before.has_channel_gains:
            used = before.gain > 0
            assert torch.equal(after.gain[used], before.gain[used])


class Tied(nn.Module):
    """Two linear layers of one weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False), nn.Linear(16, 4)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


@pytest.mark.parametrize("name", CONTROLS)
def test_tied_weights_stay_tied_and_are_drawn_once(name):
    ticket = mpt.Ticket.from_network(mpt.convert(Tied(), mpt.Biprop(prune=0.5), seed=0))
    made = control(ticket, name, seed=1)
    assert made.num_kept == ticket.num_kept
    assert torch.equal(made.weight("a"), made.weight("b"))
    assert not torch.equal(made.weight("a"), ticket.weight("a"))
    net = made.network(Tied())
    assert net.a.weight is net.b.weight
    assert torch.equal(net.b.ticket_weight(), made.weight("a"))


def test_what_has_no_control_is_refused(ticket):
    with pytest.raises(
        ValueError, match="control must be one of shuffled_mask, random_mask, fresh_weights, got 'nope'"
    ):
        control(ticket, "nope")
    dense = mpt.Ticket.from_network(mpt.convert(backbones.conv2(width=0.25, image_size=8), mpt.Dense(), seed=0))
    with pytest.raises(ValueError, match="dense baseline"):
        control(dense, "random_mask")
    unsigned = mpt.Biprop(prune=0.5, init="unsigned_constant")
    unsigned = mpt.Ticket.from_network(mpt.convert(backbones.conv2(width=0.25, image_size=8), unsigned, seed=0))
    with pytest.raises(ValueError, match="all weights are positive"):
        control(unsigned, "fresh_weights")
