from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import nn

import mpt
from mpt.search.epochs import current_masks
from mpt.search.layers import ticket_layers
from tests import own_methods, reference
from tests.own_methods import IteRand

ITERAND = IteRand(prune=0.5, period=3, share=0.4)


@pytest.fixture
def recorder():
    """A method that notes (seed, epoch, step) of each update, and its notes."""
    notes = []

    class Recorder(mpt.Biprop):
        def update(self, layers, *, seed, epoch, step):
            assert not torch.is_grad_enabled()
            assert not torch.compiler.is_compiling()
            notes.append((seed, epoch, step))

    return Recorder(prune=0.5), notes


def train_step(net):
    net(torch.randn(4, 6)).square().sum().backward()


def weights_of(net):
    return {name: layer.weight.detach().clone() for name, layer in ticket_layers(net).items()}


def wide():
    return nn.Sequential(nn.Linear(6, 200), nn.ReLU(), nn.Linear(200, 50))


def test_iterand_redraws_a_share_of_the_pruned_weights_at_every_period_and_nothing_else():
    net = mpt.convert(wide(), ITERAND, seed=5).train()
    for step in range(7):
        before, masks = weights_of(net), current_masks(net)
        train_step(net)
        for name, layer in ticket_layers(net).items():
            changed = layer.weight != before[name]
            assert bool(changed.any()) is (step in (2, 5))
            assert not (changed & masks[name]).any()
            if step in (2, 5):
                assert float(changed[~masks[name]].float().mean()) == pytest.approx(0.4, abs=0.05)
                spread = float(layer.weight[changed].square().mean() / before[name].square().mean())
                assert spread == pytest.approx(1, abs=0.2)


def test_iterand_fits_in_twenty_lines():
    assert len(inspect.getsource(own_methods.IteRand).splitlines()) <= 20


def test_iterand_ends_in_the_same_weights_again_and_in_others_from_another_seed_epoch_or_step():
    def weights_after(*, seed=5, epoch=1, steps=3, period=3):
        net = mpt.convert(wide(), IteRand(prune=0.5, period=period), seed=seed).train()
        mpt.start_epoch(net, epoch)
        for _ in range(steps):
            train_step(net)
        return weights_of(net)["0"]

    first = weights_after()
    assert torch.equal(first, weights_after())
    for change in ({"seed": 6}, {"epoch": 2}, {"steps": 6}, {"steps": 4, "period": 4}):
        assert not torch.equal(first, weights_after(**change))


def test_steps_count_optimizer_steps_of_the_epoch_however_many_forwards_make_one(mlp, recorder):
    method, notes = recorder
    net = mpt.convert(mlp, method, seed=3).train()
    for _ in range(3):
        train_step(net)
    mpt.start_epoch(net, 4, accumulate=2)
    for _ in range(5):  # two steps and a half, at which a loop ends its epoch with a last, smaller step
        train_step(net)
    mpt.start_epoch(net, 5, accumulate=1)
    for _ in range(2):
        train_step(net)
    assert notes == [*((3, 0, step) for step in range(3)), *((3, 4, step) for step in range(3)), (3, 5, 0), (3, 5, 1)]


@pytest.mark.parametrize("accumulate", [0, -1, 1.5, True])
def test_accumulate_must_be_a_whole_number_of_forwards(mlp, accumulate):
    net = mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=0)
    with pytest.raises(ValueError, match="accumulate is the number of forwards per optimizer step and must be a whole"):
        mpt.start_epoch(net, 0, accumulate=accumulate)


def test_evaluation_and_forwards_without_gradients_do_not_count_as_steps(mlp, recorder):
    method, notes = recorder
    net = mpt.convert(mlp, method, seed=0).eval()
    net(torch.randn(2, 6)).sum().backward()
    with mpt.frozen(net):
        net(torch.randn(2, 6))
    net.train()
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            net(torch.randn(2, 6))
    assert notes == []
    train_step(net)
    assert notes == [(0, 0, 0)]


def test_a_copy_counts_its_own_steps_and_changes_its_own_weights():
    net = mpt.convert(wide(), ITERAND, seed=0).train()
    for _ in range(2):
        train_step(net)
    other, before = copy.deepcopy(net), weights_of(net)["0"]
    train_step(other)
    assert not torch.equal(other[0].weight, before)
    assert torch.equal(net[0].weight, before)
    train_step(net)
    assert torch.equal(net[0].weight, other[0].weight)


def test_plain_layers_have_the_current_weights_and_no_hook():
    net = mpt.convert(wide(), ITERAND, seed=0).train()
    for _ in range(3):
        train_step(net)
    dense, x = mpt.to_dense(net), torch.randn(4, 6)
    assert torch.equal(dense(x), net.eval()(x))
    assert not dense._forward_pre_hooks
    assert not hasattr(dense, "updates")
    assert len(net._forward_pre_hooks) == 1


def test_a_network_from_a_ticket_has_the_current_weights_and_changes_none():
    net = mpt.convert(wide(), IteRand(prune=0.5, period=1), seed=0).train()
    for _ in range(3):
        train_step(net)
    again = mpt.Ticket.from_network(net).network(wide())
    x = torch.randn(4, 6)
    assert torch.equal(again(x), net.eval()(x))
    before = weights_of(again)
    for _ in range(2):
        train_step(again.train())
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(again).items())


SELECTIONS = {
    "layerwise": {},
    "global": {"selection": "global", "ramp": 0},
    "threshold": {"selection": "threshold", "threshold": 0.15},
    "calibrated": {"selection": "calibrated", "refresh": 1},
}


@pytest.mark.parametrize("selection", SELECTIONS)
def test_masks_follow_from_the_scores_that_the_update_leaves(mlp, selection):
    class Reverse(mpt.Biprop):
        """Reverses the order of the first layer's scores and makes all of them larger."""

        def update(self, layers, *, seed, epoch, step):
            for layer in layers.values():
                layer.scores.mul_(1.5)
            layers["0"].scores.copy_(layers["0"].scores.flip(0, 1))

    net = mpt.convert(mlp, Reverse(prune=0.5, **SELECTIONS[selection]), seed=0).train()
    masks = {}
    for name, layer in ticket_layers(net).items():
        layer.register_forward_hook(lambda layer, *_, name=name: masks.update({name: layer.mask()}))
    for _ in range(2):
        before = net[0].scores.detach().clone()
        train_step(net)
        scores = [layer.scores.detach().numpy() for layer in ticket_layers(net).values()]
        assert torch.equal(net[0].scores, before.mul(1.5).flip(0, 1))
        if selection == "layerwise":
            expected = [reference.mask(s, 0.5) for s in scores]
        elif selection == "threshold":
            expected = [reference.above(s, 0.15) for s in scores]
        else:
            expected = reference.global_masks(scores, 0.5)
        assert all((masks[name].numpy() == mask).all() for name, mask in zip(masks, expected, strict=True))


def test_layers_that_share_a_weight_are_updated_once_by_the_first_name():
    shared = []

    class Recorder(mpt.Biprop):
        def update(self, layers, *, seed, epoch, step):
            shared.append(list(layers))

    backbone = nn.Sequential(nn.Linear(6, 6, bias=False), nn.ReLU(), nn.Linear(6, 6, bias=False), nn.Linear(6, 3))
    backbone[2].weight = backbone[0].weight
    train_step(mpt.convert(backbone, Recorder(prune=0.5), seed=0).train())
    assert shared == [["0", "3"]]


def test_only_methods_with_an_update_have_a_hook(mlp):
    assert not mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=0)._forward_pre_hooks


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_network_calls_the_update_in_every_step(mlp, recorder, in_place):
    method, notes = recorder
    net = mpt.convert(mlp, method, seed=0).train()
    torch.compiler.reset()
    compiled = net if in_place else torch.compile(net, backend="eager")
    if in_place:
        net.compile(backend="eager")
    mpt.start_epoch(compiled, 1, accumulate=2)
    for _ in range(24):
        train_step(compiled)
    assert notes == [(0, 1, step) for step in range(12)]


@pytest.mark.slow
def test_a_compiled_network_trains_with_iterand_to_the_same_bits():
    eager = mpt.convert(wide(), ITERAND, seed=0).train()
    net = copy.deepcopy(eager)
    torch.compiler.reset()
    compiled = torch.compile(net, backend="aot_eager")
    for one in (eager, compiled):
        optim = torch.optim.SGD([p for p in one.parameters() if p.requires_grad], 0.1)
        torch.manual_seed(1)
        for _ in range(7):
            optim.zero_grad()
            train_step(one)
            optim.step()
    for one, other in zip(eager.state_dict().values(), net.state_dict().values(), strict=True):
        assert torch.equal(one, other)
