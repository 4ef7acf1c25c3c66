from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mpt
from mpt.search import quick
from mpt.search.epochs import current_masks
from mpt.search.fast import loops, threshold
from mpt.search.layers import BESIDE_LARGE, LAYERWISE, ticket_layers
from tests.own_methods import PerChannel

SELECTIONS = ("layerwise", "global", "calibrated")
SIZES = (1, 2, 7, 16, 127, 128, 129, 1000, 1728, loops.CHUNK + 384, loops.LARGE - 1)


class Own(mpt.Biprop):
    def mask(self, scores, *, kept):
        return super().mask(-scores.abs(), kept=kept)


@functools.cache
def made(method, layout):
    backbone = nn.Sequential(
        *(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 96, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        *(nn.Linear(384, 160), nn.ReLU(), nn.Linear(160, 10)),
    )
    return mpt.convert(backbone, method, seed=0).to(memory_format=layout).train()


def make(method, *, layout=torch.channels_last):
    """A network of two small and two large layers."""
    return copy.deepcopy(made(method, layout))


def step(net, dtype=torch.float32, seed=0):
    """Logits, and the scores' gradients, of one forward and backward."""
    net.zero_grad()
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = net(x)
        F.cross_entropy(logits, torch.arange(8)).backward()
    return logits.detach(), [layer.scores.grad.clone() for layer in ticket_layers(net).values()]


def assert_same(one, other):
    assert torch.equal(one[0], other[0])
    assert all(torch.equal(x, y) for x, y in zip(one[1], other[1], strict=True))


@pytest.fixture
def chosen(monkeypatch):
    """The choices that were made."""
    made = []
    for name, function in (("choose", quick.choose), ("choose_at", quick.choose_at)):
        monkeypatch.setattr(quick, name, lambda *a, function=function, **k: made.append(function(*a, **k)) or made[-1])
    return made


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gains", ["layer", "learned"])
def test_choices_give_the_bits_of_masks(layout, selection, dtype, gains, monkeypatch, chosen):
    method = mpt.Biprop(prune=0.8, selection=selection, refresh=2, gains=gains)
    one, other = make(method, layout=layout), make(method, layout=layout)
    quick_ones = [step(one, dtype, seed) for seed in range(4)]
    assert chosen
    monkeypatch.setattr(quick, "arrays", lambda layer, *, least=0: None)
    for seed, expected in enumerate(quick_ones):
        assert_same(step(other, dtype, seed), expected)


@pytest.mark.parametrize(
    "method",
    [
        *(Own(prune=0.8), PerChannel(prune=0.8), mpt.EdgePopup(prune=0.8), mpt.Biprop(prune=0.8, gains="channel")),
        *(mpt.Biprop(prune=0.8, selection="threshold", threshold=0.01), mpt.Biprop(prune=0)),
    ],
)
def test_methods_with_other_formulas_have_no_choice(method, chosen):
    net = make(method)
    step(net)
    assert chosen == []


@pytest.mark.parametrize("selection", ["layerwise", "global"])
def test_equal_scores_are_left_to_the_mask(selection, chosen):
    net = make(mpt.Biprop(prune=0.8, selection=selection, score_init="constant"))
    step(net)
    assert chosen
    kept = [int(mask.sum()) for mask in current_masks(net).values()]
    n = sum(layer.weight.numel() for layer in ticket_layers(net).values())
    assert sum(kept) == pytest.approx(0.2 * n, abs=2)


@pytest.mark.parametrize("small", [{1}, {0, 1}, {3}])
def test_a_layer_without_any_of_the_largest_scores_keeps_its_first_largest(small, monkeypatch, chosen):
    method = mpt.Biprop(prune=0.5, selection="global")
    one, other = make(method), make(method)
    for net in (one, other):
        for place in small:
            scores = list(ticket_layers(net).values())[place].scores.data.mul_(1e-6)
            scores.clamp_(max=scores.flatten().topk(3).values[-1].item())  # three equal ones
    quick_ones = [step(one, seed=seed) for seed in range(2)]
    assert one[0].selection.alone == small
    assert chosen
    monkeypatch.setattr(quick, "arrays", lambda layer, *, least=0: None)
    for seed, expected in enumerate(quick_ones):
        assert_same(step(other, seed=seed), expected)
    assert [int(mask.sum()) for mask in current_masks(one).values()][min(small)] == 1


@pytest.mark.parametrize("small", [{1}, {0, 1}, {3}])
@pytest.mark.parametrize("score_abs", [True, False])
def test_a_layer_that_a_calibrated_threshold_would_empty_keeps_all_of_its_largest(small, score_abs, monkeypatch):
    method = mpt.Biprop(prune=0.9, selection="calibrated", score_abs=score_abs)
    one, other = make(method), make(method)
    for net in (one, other):
        for place in small:
            scores = list(ticket_layers(net).values())[place].scores.data.mul_(1e-6)
            scores.clamp_(max=scores.flatten().topk(3).values[-1].item(), min=-1e-9)  # three equal ones
    first = step(one)
    assert len(one[0].selection._choices()) == 4
    monkeypatch.setattr(quick, "arrays", lambda layer, *, least=0: None)
    assert_same(step(other), first)
    assert [int(mask.sum()) for mask in current_masks(one).values()][min(small)] == 3


@pytest.mark.parametrize("expected", [{1}, {0, 1, 2}, {3}])
def test_layers_expected_to_be_without_the_largest_scores_may_be_others(expected, monkeypatch):
    method = mpt.Biprop(prune=0.5, selection="global")
    one, other = make(method), make(method)
    one[0].selection.alone = expected
    first = step(one)
    assert one[0].selection.alone == set()
    monkeypatch.setattr(quick, "arrays", lambda layer, *, least=0: None)
    assert_same(step(other), first)


@pytest.mark.parametrize("hint", ["right", "wrong", "absurd"])
def test_a_hint_may_be_wrong(hint, chosen, monkeypatch):
    method = mpt.Biprop(prune=0.8)
    one, other = make(method), make(method)
    expected = step(other)
    scores = one[2].scores.detach()
    right = np.sort(scores.abs().flatten().numpy())[scores.numel() - one[2].num_kept]
    value = {"right": right, "wrong": np.nextafter(right, np.float32(9)), "absurd": np.float32("nan")}[hint]
    monkeypatch.setitem(threshold._hints, scores.data_ptr(), value)
    chosen.clear()
    assert_same(step(one), expected)
    assert len(chosen) == (4 if hint == "right" else 5)  # of four layers


def test_scores_that_are_not_numbers_are_refused_with_advice():
    for selection in ("layerwise", "global"):
        net = make(mpt.Biprop(prune=0.8, selection=selection))
        with torch.no_grad():
            net[2].scores[3, 3] = float("nan")
        with pytest.raises(ValueError, match=r"NaN.*lower optim\.lr"):
            step(net)


def test_only_autocast_on_the_cpu_gives_a_ticket_weight_another_dtype():
    net = make(mpt.Biprop(prune=0.8))
    with torch.autocast("cpu", torch.bfloat16):
        assert quick.autocast_dtype(net[2].weight) == torch.bfloat16
        assert net[2].ticket_weight().dtype == torch.float32  # what others read
    assert quick.autocast_dtype(net[2].weight) is None
    assert net[2].weight.numel() >= loops.LARGE


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("selection", ["layerwise", "global"])
def test_a_few_equal_scores_are_dropped_by_layer_and_flat_index(layout, selection, monkeypatch):
    method = mpt.Biprop(prune=0.8, selection=selection)
    one, other = make(method, layout=layout), make(method, layout=layout)
    for net in (one, other):
        for layer in ticket_layers(net).values():
            layer.scores.data.mul_(2e4).round_().div_(2e4)  # some 30 of each value
    found, equals = [], quick.equals
    monkeypatch.setattr(quick, "equals", lambda *a, **k: found.append(len(equals(*a, **k))) or equals(*a, **k))
    actual = step(one)
    assert max(found) > 1
    monkeypatch.setattr(quick, "arrays", lambda layer, *, least=0: None)
    assert_same(step(other), actual)


class Branches(nn.ModuleList):
    def forward(self, x):
        return torch.stack([layer(x[:, : layer.in_features]) for layer in self])


def make_of(*sizes):
    """A network of a ticket layer of each size."""
    backbone = Branches([nn.Linear(size, 1, bias=False) for size in sizes])
    return mpt.convert(backbone, mpt.Biprop(prune=0.8), seed=0, example=torch.ones(2, max(sizes))).train()


def test_a_small_layer_is_chosen_for_as_a_large_one_beside_it():
    beside, alone = make_of(*SIZES, loops.LARGE), make_of(*SIZES)
    for one, other in zip(beside, alone, strict=False):
        assert one.selection is BESIDE_LARGE
        assert other.selection is LAYERWISE
        assert LAYERWISE.choose(other) is None
        other.scores.data.copy_(one.scores.data)
        other.weight.data.copy_(one.weight.data)
        assert one.num_kept == one.scores.numel() or BESIDE_LARGE.choose(one) is not None
        for dtype in (torch.float32, torch.bfloat16):
            fast, slow = one.ticket_weight(dtype).to(dtype), other.ticket_weight().to(dtype)
            assert torch.equal(fast.view(torch.uint8), slow.view(torch.uint8))
        slope = torch.randn(one.weight.shape, generator=torch.Generator().manual_seed(0))
        for net in (one, other):
            net.ticket_weight().backward(slope)
        assert torch.equal(one.scores.grad, other.scores.grad)


def test_equal_scores_are_left_to_the_mask_in_a_small_layer_too(chosen):
    layer = make_of(1728, loops.LARGE)[0]
    with torch.no_grad():
        layer.scores.fill_(0.5)
    kept = layer.ticket_weight().detach() != 0
    assert chosen
    assert kept.flatten().nonzero().flatten().tolist() == list(range(layer.num_kept))
