from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import mpt
from mpt import backbones
from mpt.search import weight
from mpt.search.layers import ticket_layers
from mpt.ticket.finetune import chosen_layers, finetuning_network, history, latent_weight
from tests import reference
from tests.ticket.test_pack import ChannelGains

LAYERS = ["features.0", "features.2", "classifier.0", "classifier.2", "classifier.4"]


def backbone():
    return backbones.conv2(width=0.25, image_size=8)


@pytest.fixture(scope="module")
def searched():
    return mpt.convert(backbone(), mpt.Biprop(prune=0.8), seed=0)


@pytest.fixture
def ticket(searched):
    return mpt.Ticket.from_network(searched)


def step(net, *, lr):
    """One step of SGD on what is trained; the loss before it."""
    torch.manual_seed(1)
    loss = F.cross_entropy(net(torch.randn(32, 3, 8, 8)), torch.arange(32) % 10)
    learned = [p for p in net.parameters() if p.requires_grad]
    for p, g in zip(learned, torch.autograd.grad(loss, learned), strict=True):
        p.data -= lr * g
    return loss.item()


def test_the_latent_weights_of_a_searched_ticket_are_the_weights_it_was_searched_among(ticket, searched):
    for layer in ticket.layers:
        latent = latent_weight(ticket, layer, seed=5)
        assert torch.equal(latent, searched.get_submodule(layer.name).weight)


def test_where_the_signs_are_not_the_seeds_the_latent_magnitudes_are_drawn_again(searched):
    redrawn = copy.deepcopy(searched)
    for layer in ticket_layers(redrawn).values():
        layer.weight.neg_()
    ticket = mpt.Ticket.from_network(redrawn)
    assert (ticket.header["seed"], ticket.weight_seed) == (0, None)
    for layer in ticket.layers:
        latent, mask = latent_weight(ticket, layer, seed=5), layer.mask()
        assert torch.allclose(weight.binary_weight(latent, mask, weight.gain(latent, mask)), layer.weight(), rtol=1e-6)
        ratio = (latent / searched.get_submodule(layer.name).weight)[mask].abs()
        assert ratio.std() > 0.1 * ratio.mean() or layer.kept < 20  # not the seed's magnitudes


@pytest.mark.parametrize("seed", [0, None])
def test_fine_tuning_starts_as_the_ticket(ticket, seed):
    flipped = ticket.tensors["classifier.0.signs"].clone()
    flipped[0] ^= 255  # as if fine-tuned before
    ticket = mpt.Ticket(ticket.header | {"seed": seed}, ticket.tensors | {"classifier.0.signs": flipped})
    net = finetuning_network(ticket, backbone(), layers="all", seed=7)
    for name, layer in ticket_layers(net).items():
        assert torch.allclose(layer.ticket_weight(), ticket.weight(name), rtol=1e-6, atol=0)
        assert layer.weight.abs().std() > 0.1 * layer.weight.abs().mean()  # some are near to turning


@pytest.mark.parametrize("binary", [True, False])
def test_the_gradient_is_that_of_the_definition(binary):
    method = mpt.Biprop(prune=0.5) if binary else mpt.EdgePopup(prune=0.5, init="kaiming_normal")
    ticket = mpt.Ticket.from_network(mpt.convert(backbone(), method, seed=0))
    net = finetuning_network(ticket, backbone(), layers="classifier.4", seed=0)
    layer = net.classifier[4]
    b = layer.ticket_weight()
    grad = torch.randn_like(b)
    b.backward(grad)
    w, mask = layer.weight.detach().numpy(), ticket.mask("classifier.4").numpy()
    gain = reference.gain(w, mask)
    expected = reference.ticket_weight(w, mask) if binary else mask * w
    assert np.allclose(b.detach().numpy(), expected, rtol=1e-6)
    assert np.allclose(layer.weight.grad.numpy(), (gain if binary else 1) * mask * grad.numpy(), rtol=1e-6)
    assert layer.scores.grad is None


@pytest.mark.parametrize(
    ("layers", "moved"), [("last", LAYERS[-1:]), ("first", LAYERS[:1]), ("features.*", LAYERS[:2])]
)
def test_only_the_chosen_weights_move_and_the_mask_does_not(ticket, layers, moved):
    assert chosen_layers(ticket, layers) == moved
    net = finetuning_network(ticket, backbone(), layers=layers, seed=0)
    before = {name: layer.weight.clone() for name, layer in ticket_layers(net).items()}
    step(net, lr=10.0)
    for name, layer in ticket_layers(net).items():
        mask = ticket.mask(name)
        assert torch.equal(layer.mask(), mask)
        changed = layer.weight != before[name]
        assert bool(changed.any()) == (name in moved)
        assert not changed[~mask].any()  # pruned weights stay


def test_fine_tuning_turns_signs_lowers_the_loss_and_gives_a_binary_ticket(ticket):
    net = finetuning_network(ticket, backbone(), layers="all", seed=0)
    losses = [step(net, lr=1.0) for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0]
    tuned = mpt.Ticket.from_network(net, history=history(ticket, layers="all"))
    turned = 0
    for layer in tuned.layers:
        assert layer.form == "binary"
        assert torch.equal(layer.mask(), ticket.mask(layer.name))
        turned += int((torch.sign(layer.weight()) != torch.sign(ticket.weight(layer.name))).sum())
        latent = net.get_submodule(layer.name).weight.detach().numpy()
        assert float(layer.gain) == pytest.approx(reference.gain(latent, layer.mask().numpy()), rel=1e-6)
    assert turned > 50
    assert (ticket.header["signs"], tuned.header["signs"]) == ("seed", "stored")
    assert tuned.header["method"] == ticket.header["method"]
    assert tuned.header["history"] == [{"ticket": ticket.digest, "layers": "all"}]
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(tuned.network()(x), net.eval()(x))
    assert history(tuned, layers="last")[0] == tuned.header["history"][0]


def test_a_ticket_with_a_gain_for_each_channel_is_tuned_with_a_gain_for_each_channel(tmp_path):
    ticket = mpt.Ticket.from_network(mpt.convert(backbone(), ChannelGains(prune=0.9), seed=0))
    net = finetuning_network(ticket, backbone(), layers="all", seed=0)
    for name, layer in ticket_layers(net).items():
        assert torch.allclose(layer.ticket_weight(), ticket.weight(name), rtol=1e-5, atol=0)
        drawn = ticket.random_weight(ticket.layer(name), seed=0, stream=name)
        ratio = (layer.weight / drawn).abs().flatten(1)  # within a channel the magnitudes are the seed's
        assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4)
    losses = [step(net, lr=1.0) for _ in range(10)]
    assert losses[-1] < losses[0]
    tuned = mpt.Ticket.from_network(net)
    assert [layer.form for layer in tuned.layers] == ["binary"] * 5
    for layer in tuned.layers:
        w, mask = net.get_submodule(layer.name).weight.detach(), layer.mask()
        for channel in range(layer.shape[0]):
            kept = w[channel][mask[channel]].abs()
            assert float(layer.gain[channel].max()) == pytest.approx(float(kept.mean()) if len(kept) else 0.0, rel=1e-5)
    tuned.save(tmp_path / "t")
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(mpt.Ticket.load(tmp_path / "t").network(backbone())(x), net.eval()(x))


def test_a_ticket_that_was_fine_tuned_before_starts_again_as_itself(ticket):
    net = finetuning_network(ticket, backbone(), layers="all", seed=0)
    step(net, lr=10.0)
    tuned = mpt.Ticket.from_network(net)
    assert tuned.weight_seed is None
    again = finetuning_network(tuned, backbone(), layers="all", seed=3)
    for name, layer in ticket_layers(again).items():
        assert torch.allclose(layer.ticket_weight(), tuned.weight(name), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "method",
    [
        mpt.PartlyFrozen(prune=0.9, locked=0.3),
        mpt.Biprop(prune=0.8, gains="learned", prune_layers={"classifier.*": 0.9}),
        mpt.Multicoated(prune=0.8),
        mpt.IteRand(prune=0.8, period=1, rate=0.5),
    ],
    ids=lambda method: type(method).__name__,
)
def test_a_fine_tuned_ticket_says_how_it_was_searched_and_takes_no_more_bits_for_the_other_layers(tmp_path, method):
    net = mpt.convert(backbone(), method, seed=0).train()
    net(torch.randn(2, 3, 8, 8))
    ticket = mpt.Ticket.from_network(net)
    tuned = finetuning_network(ticket, backbone(), layers="last", seed=0)
    step(tuned, lr=1e-6)  # of which no sign turns
    mpt.Ticket.from_network(tuned).save(tmp_path / "t")
    again = mpt.Ticket.load(tmp_path / "t")
    about = [json.loads(json.dumps(of.header)) for of in (ticket, again)]
    for key in ("method", "pattern", "signs", "seed"):
        assert about[1].get(key) == about[0].get(key)
    own = [layer.form == "real" for layer in again.layers]
    assert own == [False] * 4 + [isinstance(method, mpt.Multicoated)]
    if not any(own):
        assert again.entropy_bits == ticket.entropy_bits


def test_what_cannot_be_fine_tuned_is_refused(ticket):
    with pytest.raises(ValueError, match=r"layers names 'fc', which is none of features\.0, features\.2"):
        chosen_layers(ticket, "fc")
    dense = mpt.Ticket.from_network(mpt.convert(backbone(), mpt.Dense(), seed=0))
    with pytest.raises(ValueError, match="dense baseline"):
        finetuning_network(dense, backbone(), layers="last", seed=0)
