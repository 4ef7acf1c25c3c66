from __future__ import annotations

import copy
import functools
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mpt
from mpt.search import one_pass
from mpt.search.adam import ScoreAdam, ScoreAdamW
from mpt.search.fast import descent
from mpt.search.layers import ticket_layers
from mpt.search.sgd import ScoreSGD

OPTIMIZERS = {  # ours, torch's, options
    "sgd": (ScoreSGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}),
    "adam": (ScoreAdam, torch.optim.Adam, {"lr": 0.01, "weight_decay": 1e-3}),
    "adamw": (ScoreAdamW, torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
}
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
    monkeypatch.setattr(
        one_pass, "descend", lambda some, rule: numbers.append(len(some)) or descent.descend(some, rule)
    )
    return numbers


@functools.cache
def made(method):
    backbone = nn.Sequential(
        *(nn.BatchNorm2d(3), nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, stride=4)),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(64 * 9, 10)),
    )
    net = mpt.convert(backbone, method, seed=0, learn_batchnorm=True, example=torch.zeros(2, 3, 14, 14))
    return net.to(memory_format=torch.channels_last).train()


def make(method=METHODS["biprop"]):
    return copy.deepcopy(made(method))


def train(net, kind, options, *, steps=5, dtype=torch.float32, accumulate=1, state=None, first=0, clip=0.0):
    """Train ``net``; the state of its optimizer."""
    optimizer = kind([p for p in net.parameters() if p.requires_grad], **{"fused": True} | options)
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
            if clip:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
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
        assert first[key].keys() == second[key].keys()
        assert all(torch.equal(x, second[key][name]) for name, x in first[key].items() if x is not None)
    assert states[0]["param_groups"] == states[1]["param_groups"]


def assert_alike(name, options=(), *, method=METHODS["biprop"], **kind):
    """A search by our optimizer ``name`` and one by torch's have the same bits."""
    (ours, theirs, usual), one, other = OPTIMIZERS[name], make(method), make(method)
    options = usual | dict(options)
    assert_same(one, other, [train(one, ours, options, **kind), train(other, theirs, options, **kind)])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_search_goes_as_with_torchs_optimizer_to_the_bit(name, method, dtype):
    assert_alike(name, method=METHODS[method], dtype=dtype)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    "options",
    [{"maximize": True}, {"fused": False}, {"fused": None, "foreach": True}, {"weight_decay": 0.0}],
    ids=str,
)
def test_options_change_no_bit_either(name, options):
    assert_alike(name, options)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_closure_may_clip_the_gradients_of_scores_without_a_fused_step(name, moved):
    assert_alike(name, {"fused": False}, clip=0.01)
    assert moved == []


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_accumulated_gradients_are_moved_as_torch_moves_them(name, moved):
    assert_alike(name, accumulate=3)
    assert moved == []


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_all_layers_but_in_the_first_step_are_moved_in_one_pass(name, moved):
    (ours, _, options), net = OPTIMIZERS[name], make()
    train(net, ours, options, steps=4)
    assert moved == ([3] * 3 if descent.is_exact(ours.kind) else [])
    assert moved == [] or all(layer.scores.grad is None for layer in ticket_layers(net).values())
    assert net[0].weight.grad is not None


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_where_torch_rounds_in_another_way_it_moves_the_scores(name, moved, monkeypatch):
    monkeypatch.setattr(descent, "is_exact", lambda kind: False)
    assert_alike(name)
    assert moved == []


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_in_several_processes_torch_moves_the_scores(name, moved, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        assert_alike(name, steps=3)
    finally:
        torch.distributed.destroy_process_group()
    assert moved == []


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("places", [(0, 1), (1, 0)])
def test_either_optimizer_goes_on_from_the_state_of_the_other(name, places):
    *kinds, options = OPTIMIZERS[name]
    whole, parts = make(), make()
    expected = train(whole, kinds[1], options, steps=6)
    state = train(parts, kinds[places[0]], options, steps=3)
    resumed = copy.deepcopy(parts)
    assert_same(whole, resumed, [expected, train(resumed, kinds[places[1]], options, steps=3, state=state, first=3)])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_scores_with_hooks_and_steps_without_closure_have_gradients(name, moved):
    (ours, _, options), net, seen = OPTIMIZERS[name], make(), []
    layers = list(ticket_layers(net).values())
    layers[0].scores.register_hook(lambda grad: seen.append("tensor"))
    layers[1].scores.register_post_accumulate_grad_hook(lambda p: seen.append("accumulated"))
    train(net, ours, options, steps=3)
    assert seen == ["accumulated", "tensor"] * 3
    optimizer = ours([layer.scores for layer in layers], **options, fused=True)
    for _ in range(2):
        net(torch.randn(8, 3, 14, 14)).square().sum().backward()
        optimizer.step()
    assert all(layer.scores.grad is not None for layer in layers)
    assert len(moved) <= 2


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_hooks_of_the_optimizer_run_once_a_step(name):
    (ours, theirs, options), net, seen = OPTIMIZERS[name], make(), []
    theirs(net.parameters(), 0.1)  # gives the step of torch's class its hooks
    optimizer = ours([p for p in net.parameters() if p.requires_grad], **options, fused=True)
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.step(lambda: net(torch.randn(8, 3, 14, 14)).sum().backward())
    assert seen == ["before", "after"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("instructions", "processor"),
    [("default", ""), ("avx2", ""), ("avx512", ""), ("avx512", "generic"), ("default", "generic")],
)
def test_a_search_goes_as_with_torchs_optimizers_whatever_instructions_torch_and_numba_use(instructions, processor):
    code = (
        "from tests.search.test_one_pass import OPTIMIZERS, assert_alike; [assert_alike(name) for name in OPTIMIZERS]"
    )
    env = {**os.environ, "ATEN_CPU_CAPABILITY": instructions} | ({"NUMBA_CPU_NAME": processor} if processor else {})
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


@pytest.mark.parametrize(
    ("options", "are"),
    [((1, 0.5), True), ((1, float("inf")), False), ((torch.tensor(0.1),), False), ((float("nan"),), False)],
)
def test_options_are_finite_numbers(options, are):
    assert one_pass.are_numbers(*options) is are
