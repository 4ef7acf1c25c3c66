from __future__ import annotations

import copy
import time
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import mpt
from mpt import backbones
from mpt.search.layers import TicketLayer, ticket_layers
from mpt.ticket.keeping import KeepingLayer


def backbone():
    return backbones.conv2(width=0.25, image_size=8)


@pytest.fixture
def net():
    return mpt.Ticket.from_network(mpt.convert(backbone(), mpt.Biprop(prune=0.8), seed=0)).network()


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def computed_again(net):
    """Logits of ``net`` from ticket weights that no layer has kept."""
    with torch.no_grad():
        return mpt.frozen(copy.deepcopy(net)).__enter__()(X)


def count_computations(monkeypatch):
    """A list that grows by one for each ticket weight that is computed."""
    calls = []
    compute = TicketLayer._compute_ticket
    monkeypatch.setattr(TicketLayer, "_compute_ticket", lambda self: calls.append(self) or compute(self))
    return calls


@pytest.mark.parametrize("grad", [True, False])
def test_each_ticket_weight_is_computed_once_for_many_forwards_in_evaluation(net, monkeypatch, grad):
    calls = count_computations(monkeypatch)
    with torch.set_grad_enabled(grad):
        for _ in range(3):
            net(X)
    assert len(calls) == 5
    net.train()
    net.eval()
    for _ in range(3):
        net(X)
    assert len(calls) == 10


def _fused_step(net):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, fused=True)
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    net(X)  # kept after the optimizer has taken the parameters
    optimizer.step()


def _inference_mode(net):
    with torch.inference_mode():
        for layer in ticket_layers(net).values():
            layer.scores.copy_(layer.scores.flip(0))


def _functional(net):
    return {name: value.flip(0) for name, value in net.state_dict().items()}


CHANGES = {
    "in place": lambda net: [layer.scores.neg_().add_(1) for layer in ticket_layers(net).values()],
    "weights": lambda net: [layer.weight.neg_() for layer in ticket_layers(net).values()],
    "data of a layer": lambda net: [
        layer.scores.data.copy_(layer.scores.flip(0)) for layer in ticket_layers(net).values()
    ],
    "data of parameters": lambda net: [p.data.copy_(p.data.flip(0)) for p in net.parameters()],
    "numpy": lambda net: [
        np.negative(w, out=w) for w in (layer.weight.numpy() for layer in ticket_layers(net).values())
    ],
    "other data": lambda net: [setattr(p, "data", p.data.flip(0)) for p in net.parameters()],
    "new parameters": lambda net: [
        setattr(layer, "scores", nn.Parameter(layer.scores.flip(0))) for layer in ticket_layers(net).values()
    ],
    "load_state_dict": lambda net: net.load_state_dict(_functional(net)),
    "state_dict": lambda net: [value.copy_(value.flip(0)) for value in net.state_dict().values()],
    "a fused optimizer": _fused_step,
    "inference mode": _inference_mode,
    "the number kept": lambda net: [setattr(layer, "num_kept", 1) for layer in ticket_layers(net).values()],
    "the method": lambda net: [
        setattr(layer, "method", mpt.Biprop(prune=0.5)) for layer in ticket_layers(net).values()
    ],
    "its own ticket weight": lambda net: [layer.ticket_weight().zero_() for layer in ticket_layers(net).values()],
    "double": lambda net: net.double().float(),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_the_logits_are_right_after_any_change(net, change):
    with torch.no_grad():
        before = net(X)
        CHANGES[change](net)
        after = net(X)
    assert torch.equal(after, computed_again(net))
    if change not in ("the method", "its own ticket weight", "double"):
        assert not torch.equal(after, before)
    assert torch.equal(mpt.to_dense(net)(X), after)
    assert torch.equal(mpt.Ticket.from_network(net).network()(X), after) or change in ("the number kept",)


def test_a_write_to_a_tied_weight_changes_both_layers():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(torch.relu(self.a(x)))

    net = mpt.Ticket.from_network(mpt.convert(Tied(), mpt.Biprop(prune=0.5), seed=0)).network(Tied())
    for one in (net, copy.deepcopy(net)):
        before = one.b.ticket_weight().clone()
        one.a.weight.data.neg_()
        assert torch.equal(one.b.ticket_weight(), -before)
        assert torch.equal(one.a.ticket_weight(), -before)


def test_scores_that_learn_get_the_same_gradients_from_a_kept_ticket_weight(net):
    gradients = []
    for training in (False, True):
        net.train(training)
        for layer in ticket_layers(net).values():
            layer.scores.requires_grad_(True)
            layer.scores.grad = None
        net(X)
        net(X).sum().backward()
        gradients.append([layer.scores.grad.clone() for layer in ticket_layers(net).values()])
    for kept, trained in zip(*gradients, strict=True):
        assert torch.equal(kept, trained)
        assert kept.abs().sum() > 0


def test_copies_files_and_plain_networks_do_not_share_what_is_kept(net, tmp_path):
    expected = net(X)
    other = copy.deepcopy(net)
    other.features[0].weight.data.neg_()
    assert torch.equal(net(X), expected)
    assert not torch.equal(other(X), expected)
    torch.save(net, tmp_path / "net")
    assert torch.equal(torch.load(tmp_path / "net", weights_only=False)(X), expected)
    dense = mpt.to_dense(net)
    assert not any(isinstance(module, TicketLayer) or "kept" in vars(module) for module in dense.modules())


@pytest.mark.slow
def test_compiled_and_functional_calls_compute_with_the_parameters_that_they_get(net):
    expected = net(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler
        compiled = torch.compile(net, backend="eager")
        with torch.no_grad():
            assert torch.equal(compiled(X), expected)
            net.features[0].weight.data.neg_()
            assert torch.equal(compiled(X), net(X))
    state = {name: -value for name, value in net.state_dict().items() if name.endswith("weight")}
    given = torch.func.functional_call(net, state, (X,))
    net.load_state_dict(net.state_dict() | state)
    assert torch.equal(given, net(X))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conv2", "conv6", "cifar_resnet18"])
def test_one_picture_costs_at_most_a_fifth_more_than_the_dense_network(name):
    plain = getattr(backbones, name)()
    net = mpt.Ticket.from_network(mpt.convert(plain, mpt.Biprop(prune=0.8), seed=0)).network()
    dense, x = mpt.to_dense(net), torch.randn(1, 3, 32, 32)
    best = {net: float("inf"), dense: float("inf")}
    with torch.no_grad():
        for turn in range(30):
            if turn == 15:
                net.train()
                net.eval()
                net(x)
            for one in best:
                start = time.process_time()
                one(x)
                best[one] = min(best[one], time.process_time() - start)
    assert best[net] <= 1.2 * best[dense]


def test_the_layers_of_a_search_keep_nothing():
    net = mpt.convert(backbone(), mpt.Biprop(prune=0.8), seed=0).eval()
    assert not any(isinstance(layer, KeepingLayer) for layer in net.modules())
