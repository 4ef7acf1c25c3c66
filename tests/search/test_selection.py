from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import mpt
from mpt.search import selection as selections
from mpt.search.epochs import calibrate, current_masks
from mpt.search.layers import ticket_layers
from tests import reference

THRESHOLD = mpt.Biprop(prune=0.5, selection="threshold", threshold=0.15)
TOGETHER = {
    "global": mpt.Biprop(prune=0.5, selection="global"),
    "global_signed": mpt.Biprop(prune=0.7, selection="global", score_abs=False, ramp=0),
    "threshold": THRESHOLD,
    "calibrated": mpt.Biprop(prune=0.5, selection="calibrated", refresh=3),
}


def scores_of(net):
    return [layer.scores.detach().numpy() for layer in ticket_layers(net).values()]


def expected_masks(net):
    """By the reference, of the scores as they are."""
    method, scores = net.conversion.method, scores_of(net)
    if method.selection == "global":
        return reference.global_masks(scores, method.prune, score_abs=method.score_abs)
    thresholds = [method.threshold] * len(scores)
    if method.selection == "calibrated":
        thresholds = [layer.threshold.item() for layer in ticket_layers(net).values()]
    return [
        reference.above(s, t, power=method.power, score_abs=method.score_abs)
        for s, t in zip(scores, thresholds, strict=True)
    ]


def assert_current(net, x):
    """A forward in training gives what plain layers with the reference's masks of the current scores give."""
    out = net(x)  # first: it may set the threshold
    plain = mpt.to_dense(copy.deepcopy(net))
    for (name, layer), mask in zip(ticket_layers(net).items(), expected_masks(net), strict=True):
        weight = torch.from_numpy(reference.ticket_weight(layer.weight.detach().numpy(), mask)).float()
        plain.get_submodule(name).weight.data.copy_(weight)
    torch.testing.assert_close(out, plain(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(net[2](net[1](net[0](x))), plain(x), rtol=1e-5, atol=1e-6)  # layers by themselves


@pytest.mark.parametrize("name", TOGETHER)
def test_a_converted_network_has_the_masks_of_the_reference(mlp, name):
    net = mpt.convert(mlp, TOGETHER[name], seed=0)
    for mask, expected in zip(current_masks(net).values(), expected_masks(net), strict=True):
        assert np.array_equal(mask.numpy(), expected)
    if "threshold" not in name:
        kept = sum(int(layer.mask().sum()) for layer in ticket_layers(net).values())
        assert kept == 72 - round(72 * TOGETHER[name].prune)


@pytest.mark.parametrize("name", TOGETHER)
def test_training_sees_the_current_masks_whatever_wrote_the_scores(mlp, name):
    net = mpt.convert(mlp, TOGETHER[name], seed=0).train()
    optim = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1, momentum=0.9, fused=True)
    x, y = torch.randn(16, 6), torch.randint(0, 3, (16,))
    for _ in range(5):
        nn.functional.cross_entropy(net(x), y).backward()
        optim.step()
        optim.zero_grad()
        assert_current(net, x)
    net[0].scores.data.mul_(torch.rand_like(net[0].scores) + 0.5)  # raises no version
    assert_current(net, x)
    net[2].scores.data = torch.rand_like(net[2].scores) + 0.01
    assert_current(net, x)
    net.load_state_dict(mpt.convert(mlp, TOGETHER[name], seed=1).state_dict())
    assert_current(net, x)
    net.load_state_dict(mpt.convert(mlp, TOGETHER[name], seed=2).state_dict(), assign=True)
    assert_current(net, x)
    net.forward = lambda x: net[2](net[1](net[0](x)))
    assert_current(net, x)


@pytest.mark.parametrize("name", TOGETHER)
def test_a_copy_selects_by_its_own_scores(mlp, name):
    net = mpt.convert(mlp, TOGETHER[name], seed=0).train()
    x = torch.randn(4, 6)
    before, other = net(x), copy.deepcopy(net)
    other[0].scores.data.mul_(torch.rand_like(other[0].scores) + 0.5)
    assert_current(other, x)
    assert torch.equal(net(x), before)
    assert other[0].selection is other[2].selection is not net[0].selection
    assert other[0].selection.layers == [other[0], other[2]]


@pytest.mark.parametrize("name", TOGETHER)
def test_evaluation_plain_layers_and_the_ticket_have_the_same_masks(mlp, name, tmp_path):
    net = mpt.convert(mlp, TOGETHER[name], seed=0).eval()
    x = torch.randn(4, 6)
    out = net(x)
    with torch.inference_mode(), mpt.frozen(net):
        assert torch.equal(net(x), out)
    dense = mpt.to_dense(net)
    assert torch.equal(dense(x), out)
    assert len(net._forward_pre_hooks) == len(net._forward_hooks) == 1
    assert type(dense[0]) is nn.Linear
    assert not dense._forward_pre_hooks
    assert not dense._forward_hooks
    assert set(dense.state_dict()) == {"0.weight", "2.weight"}
    ticket = mpt.Ticket.from_network(net.train())
    ticket.save(tmp_path / "t")
    read = mpt.Ticket.load(tmp_path / "t")
    for layer, mask in zip(("0", "2"), expected_masks(net), strict=True):
        assert np.array_equal(read.mask(layer).numpy(), mask)
    again = read.network(mlp)
    assert torch.equal(again(x), out)
    assert again.conversion.method == TOGETHER[name]
    mpt.start_epoch(again, 0)  # training goes on from a ticket: it keeps what the file says
    assert torch.equal(again(x), out)
    assert mpt.Ticket.from_network(again).tensors.keys() == ticket.tensors.keys()


def test_global_masks_are_selected_once_per_forward(mlp, monkeypatch):
    calls = []
    select = selections.select_jointly
    monkeypatch.setattr(selections, "select_jointly", lambda *a, **k: calls.append(1) or select(*a, **k))
    net = mpt.convert(nn.Sequential(mlp, nn.ReLU(), nn.Linear(3, 3)), TOGETHER["global"], seed=0).train()
    calls.clear()
    net(torch.randn(4, 6)).sum().backward()
    assert len(calls) == 1
    net(torch.randn(4, 6))
    assert len(calls) == 2
    with pytest.raises(RuntimeError):
        net(torch.randn(4, 5))
    assert not net[2].selection.masks
    net.eval()
    calls.clear()
    with mpt.frozen(net):
        net(torch.randn(4, 6))
        net(torch.randn(4, 6))
    mpt.layer_table(net)
    mpt.Ticket.from_network(net)
    assert len(calls) == 3


def test_a_layer_that_global_pruning_would_empty_keeps_its_most_important_weight(mlp):
    net = mpt.convert(mlp, mpt.Biprop(prune=0.9, selection="global"), seed=0)
    net[2].scores.data.mul_(1e-6)
    masks = current_masks(net)
    assert [int(mask.sum()) for mask in masks.values()] == [6, 1]
    assert int(masks["2"].flatten().nonzero()) == int(net[2].scores.abs().argmax())


@pytest.mark.parametrize("selection", ["global", "calibrated"])
def test_a_prune_that_leaves_less_than_one_weight_per_layer_is_refused(mlp, selection):
    with pytest.raises(ValueError, match=r"prune=0.99 keeps 1 of the network's 72 weights.* its 2 layers: lower prune"):
        mpt.convert(mlp, mpt.Biprop(prune=0.99, selection=selection), seed=0)


def test_a_threshold_that_empties_a_layer_is_refused_at_once_and_in_training(mlp):
    with pytest.raises(
        ValueError, match=r"threshold=0.4 keeps none of the 48 weights of layer '0'.* 0\.39.*: lower it"
    ):
        mpt.convert(mlp, mpt.Biprop(prune=0.5, selection="threshold", threshold=0.4), seed=0)
    net = mpt.convert(mlp, THRESHOLD, seed=0).train()
    net[0].scores.data.mul_(0.01)
    with pytest.raises(ValueError, match=r"threshold=0.15 keeps none of the 48 weights of layer '0'"):
        net(torch.randn(2, 6))
    with pytest.raises(ValueError, match="of layer '0'"):
        current_masks(net)


def test_a_threshold_applies_to_the_propagated_scores(mlp):
    plain = mpt.convert(mlp, THRESHOLD, seed=0)
    method = mpt.Biprop(prune=0.5, selection="threshold", threshold=0.15**3, power=3.0)
    powered = mpt.convert(mlp, method, seed=0)
    matched = mpt.convert(mlp, mpt.Biprop(**{**vars(method), "threshold": 0.15, "score_start": "matched"}), seed=0)
    for layer in ("0", "2"):
        mask = plain.get_submodule(layer).mask()
        assert torch.equal(powered.get_submodule(layer).mask(), mask)
        assert torch.equal(matched.get_submodule(layer).mask(), mask)
    with pytest.raises(ValueError, match=r"threshold=0.1 .*largest importance is 0.0\d+: lower it"):
        mpt.convert(mlp, mpt.Biprop(**{**vars(method), "threshold": 0.1}), seed=0)


def test_a_calibrated_threshold_is_set_every_few_training_steps():
    net = mpt.convert(nn.Sequential(nn.Linear(60, 50), nn.ReLU(), nn.Linear(50, 40)), TOGETHER["calibrated"], seed=0)
    x = torch.randn(4, 60)

    def off(factor):
        for layer in ticket_layers(net).values():
            layer.scores.data.mul_(factor)
        net(x)
        return sum(int(layer.mask().sum()) for layer in ticket_layers(net).values()) - 2500

    assert [off(1.002) == 0 for _ in range(7)] == [True, False, False, True, False, False, True]  # refresh=3
    assert off(1.002) > 0
    assert off(1.5) == 0  # by more than 0.5 points of the density: at once
    net.eval()
    assert off(1.5) > 100  # evaluation sets nothing
    calibrate(net)
    assert off(1.0) == 0
    assert off(1.002) > 0
    mpt.start_epoch(net.train(), 1)
    assert off(1.002) == 0  # the first step of an epoch


def test_a_calibrated_threshold_is_refreshed_by_optimizer_steps_not_forwards():
    net = mpt.convert(nn.Sequential(nn.Linear(60, 50), nn.ReLU(), nn.Linear(50, 40)), TOGETHER["calibrated"], seed=0)
    mpt.start_epoch(net, 0, accumulate=2)
    thresholds = []
    for _ in range(14):
        for layer in ticket_layers(net).values():
            layer.scores.data.mul_(1.0005)
        net(torch.randn(4, 60))
        thresholds.append(net[0].threshold.item())
    assert [i for i in range(1, 14) if thresholds[i] != thresholds[i - 1]] == [6, 12]  # 3 steps of two forwards


def test_a_calibrated_threshold_is_in_the_state_dict_to_the_bit(mlp):
    net = mpt.convert(mlp, TOGETHER["calibrated"], seed=0)
    assert set(net.state_dict()) == {f"{n}.{k}" for n in "02" for k in ("weight", "scores", "threshold")}
    other = mpt.convert(mlp, TOGETHER["calibrated"], seed=1)
    net[0].scores.data.mul_(1.1)
    other.load_state_dict(net.state_dict())
    for layer in ("0", "2"):
        assert torch.equal(other.get_submodule(layer).mask(), net.get_submodule(layer).mask())
    for name in ("global", "threshold"):
        assert set(mpt.convert(mlp, TOGETHER[name], seed=0).state_dict()) == {
            f"{n}.{k}" for n in "02" for k in ("weight", "scores")
        }


def test_a_layer_that_calibration_would_empty_keeps_its_largest(mlp):
    net = mpt.convert(mlp, TOGETHER["calibrated"], seed=0).train()
    net[2].scores.data.mul_(1e-6)
    assert torch.isfinite(net(torch.randn(2, 6))).all()
    largest = net[2].scores.detach().abs()
    assert torch.equal(net[2].mask(), largest == largest.max())


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.5, 0.99, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_calibrated_mask_is_the_same_on_every_device(threshold, dtype):
    importance, held = torch.rand(40, 5).to(dtype), torch.tensor(threshold, dtype=dtype)
    mask = selections._above(importance, held)
    assert mask.any()
    assert torch.equal(mask, selections._above_on_device(importance, held))


def test_equal_scores_cannot_be_calibrated(mlp):
    method = mpt.Biprop(prune=0.4, selection="calibrated", score_init="constant")
    with pytest.raises(ValueError, match=r"selection=calibrated cannot keep 58 of 96 weights: 96 exceed"):
        mpt.convert(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6)), method, seed=0)


def test_shared_scores_are_selected_once_and_count_once():
    backbone = nn.Sequential(nn.Linear(6, 6, bias=False), nn.ReLU(), nn.Linear(6, 6, bias=False), nn.Linear(6, 3))
    backbone[2].weight = backbone[0].weight
    for selection in ("global", "calibrated"):
        net = mpt.convert(backbone, mpt.Biprop(prune=0.5, selection=selection), seed=0).train()
        net(torch.randn(2, 6)).sum().backward()
        assert torch.equal(net[0].mask(), net[2].mask())
        assert int(net[0].mask().sum()) + int(net[3].mask().sum()) == 27
        assert torch.equal(mpt.to_dense(net)(torch.ones(1, 6)), net(torch.ones(1, 6)))
    shared = nn.Linear(6, 6)
    net = mpt.convert(nn.Sequential(shared, nn.ReLU(), shared), TOGETHER["global"], seed=0).train()
    assert int(net[2].mask().sum()) == 18


def test_gradients_add_up_over_the_parts_of_a_batch(mlp):
    x, y = torch.randn(8, 6), torch.randint(0, 3, (8,))
    for method in (TOGETHER["global"], mpt.Biprop(prune=0.5, selection="calibrated", refresh=2)):
        whole, parts = (mpt.convert(mlp, method, seed=0).train() for _ in range(2))
        nn.functional.cross_entropy(whole(x), y).backward()
        for part in (slice(0, 4), slice(4, 8)):
            (nn.functional.cross_entropy(parts(x[part]), y[part]) / 2).backward()
        torch.testing.assert_close(parts[0].scores.grad, whole[0].scores.grad)
