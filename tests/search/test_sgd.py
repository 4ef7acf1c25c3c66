from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mpt
from mpt.search import sgd
from mpt.search.fast import descent
from mpt.search.layers import ticket_layers
from mpt.search.sgd import ScoreSGD

METHODS = {
    "biprop": mpt.Biprop(prune=0.8),
    "signed gain": mpt.Biprop(prune=0.8, score_grad="gain", score_abs=False),
    "global": mpt.Biprop(prune=0.8, selection="global"),
    "calibrated": mpt.Biprop(prune=0.8, selection="calibrated", refresh=2),
    "learned gains": mpt.Biprop(prune=0.8, gains="learned"),
    "gains of channels": mpt.Biprop(prune=0.8, gains="channel", score_grad="gain"),
    "power": mpt.Biprop(prune=0.8, power=2.0),
    "edge-popup": mpt.EdgePopup(prune=0.8),
}


@pytest.fixture
def moved(monkeypatch):
    """The numbers of layers that one pass has moved, step by step."""
    numbers = []
    monkeypatch.setattr(sgd, "descend", lambda some, rule: numbers.append(len(some)) or descent.descend(some, rule))
    return numbers


def make(method=METHODS["biprop"]):
    backbone = nn.Sequential(
        *(nn.BatchNorm2d(3), nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, stride=4)),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(64 * 9, 10)),
    )
    net = mpt.convert(backbone, method, seed=0, learn_batchnorm=True, example=torch.zeros(2, 3, 14, 14))
    return net.to(memory_format=torch.channels_last).train()


def train(net, kind, *, steps=5, dtype=torch.float32, accumulate=1, state=None, options=None, first=0):
    """Train ``net``; the state of its optimizer."""
    options = {"momentum": 0.9, "weight_decay": 1e-3, "fused": True} | (options or {})
    optimizer = kind([p for p in net.parameters() if p.requires_grad], 0.05, **options)
    if state is not None:
        optimizer.load_state_dict(state)
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)

        def loss(part=0, generator=generator):
            x = torch.randn(8, 3, 14, 14, generator=generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                loss = F.cross_entropy(net(x), torch.arange(8))
            if part == 0:
                optimizer.zero_grad()
            loss.backward()
            return loss

        for part in range(accumulate - 1):
            loss(part)
        optimizer.step(lambda: loss(accumulate - 1))
    return optimizer.state_dict()


def assert_same(one, other, states):
    for (name, x), (_, y) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(x, y), name
    first, second = (state["state"] for state in states)
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key]["momentum_buffer"], second[key]["momentum_buffer"])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_search_goes_as_with_torchs_sgd_to_the_bit(method, dtype):
    one, other = make(METHODS[method]), make(METHODS[method])
    assert_same(one, other, [train(one, ScoreSGD, dtype=dtype), train(other, torch.optim.SGD, dtype=dtype)])


@pytest.mark.parametrize(
    "options",
    [
        *({"nesterov": True}, {"weight_decay": 0.0}, {"momentum": 0.0}, {"dampening": 0.5}, {"maximize": True}),
        *({"fused": False}, {"fused": None, "foreach": True}, {"lr": torch.tensor(0.05)}),
    ],
    ids=str,
)
def test_options_of_sgd_change_no_bit_either(options):
    options = dict(options)
    options.pop("lr", None)
    one, other = make(), make()
    states = [train(one, ScoreSGD, options=options), train(other, torch.optim.SGD, options=options)]
    for (name, x), (_, y) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(x, y), name
    assert states[0]["param_groups"] == states[1]["param_groups"]


def test_accumulated_gradients_are_moved_as_torch_moves_them(moved):
    one, other = make(), make()
    assert_same(one, other, [train(one, ScoreSGD, accumulate=3), train(other, torch.optim.SGD, accumulate=3)])
    assert moved == []


@pytest.mark.skipif(not descent.is_exact(), reason="this torch rounds SGD in another way")
def test_all_layers_but_in_the_first_step_are_moved_in_one_pass(moved):
    net = make()
    train(net, ScoreSGD, steps=4)
    assert moved == [3] * 3
    assert all(layer.scores.grad is None for layer in ticket_layers(net).values())
    assert net[0].weight.grad is not None


def test_where_torch_rounds_in_another_way_it_moves_the_scores(moved, monkeypatch):
    monkeypatch.setattr(descent, "is_exact", lambda: False)
    one, other = make(), make()
    assert_same(one, other, [train(one, ScoreSGD), train(other, torch.optim.SGD)])
    assert moved == []


@pytest.mark.parametrize("kinds", [(ScoreSGD, torch.optim.SGD), (torch.optim.SGD, ScoreSGD)])
def test_either_optimizer_goes_on_from_the_state_of_the_other(kinds):
    whole, parts = make(), make()
    expected = train(whole, torch.optim.SGD, steps=6)
    state = train(parts, kinds[0], steps=3)
    resumed = copy.deepcopy(parts)
    assert_same(whole, resumed, [expected, train(resumed, kinds[1], steps=3, state=state, first=3)])


def test_scores_with_hooks_and_steps_without_closure_have_gradients(moved):
    net, seen = make(), []
    layers = list(ticket_layers(net).values())
    layers[0].scores.register_hook(lambda grad: seen.append("tensor"))
    layers[1].scores.register_post_accumulate_grad_hook(lambda p: seen.append("accumulated"))
    train(net, ScoreSGD, steps=3)
    assert seen == ["accumulated", "tensor"] * 3
    optimizer = ScoreSGD([layer.scores for layer in layers], 0.1, momentum=0.9, fused=True)
    for _ in range(2):
        net(torch.randn(8, 3, 14, 14)).square().sum().backward()
        optimizer.step()
    assert all(layer.scores.grad is not None for layer in layers)
    assert len(moved) <= 2


def test_hooks_of_the_optimizer_run_once_a_step():
    net, seen = make(), []
    torch.optim.SGD(net.parameters(), 0.1)  # gives SGD.step its hooks
    optimizer = ScoreSGD([p for p in net.parameters() if p.requires_grad], 0.1, momentum=0.9, fused=True)
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.step(lambda: net(torch.randn(8, 3, 14, 14)).sum().backward())
    assert seen == ["before", "after"]


@pytest.mark.slow
@pytest.mark.parametrize("instructions", ["default", "avx2", "avx512"])
def test_a_search_goes_as_with_torchs_sgd_whatever_instructions_torch_uses(instructions):
    code = (
        "import torch; from mpt.search.sgd import ScoreSGD; "
        "from tests.search.test_sgd import assert_same, make, train; "
        "one, other = make(), make(); "
        "assert_same(one, other, [train(one, ScoreSGD), train(other, torch.optim.SGD)])"
    )
    env = {**os.environ, "ATEN_CPU_CAPABILITY": instructions}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
