from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import mpt
from mpt.search.initializers import random_weight
from mpt.search.layers import ticket_layers
from mpt.streams import stream_generator
from tests import reference


def converted(method, mlp, seed=0):
    return mpt.convert(mlp, method, seed=seed, example=torch.randn(2, 6)).train()


def layers_of(net):
    return ticket_layers(net).values()


@pytest.mark.parametrize("selection", ["layerwise", "global", "calibrated"])
@pytest.mark.parametrize("score_grad", ["weight", "sign", "gain"])
def test_a_signed_ticket_takes_its_signs_from_the_scores(mlp, score_grad, selection):
    net = converted(mpt.Signed(prune=0.6, score_grad=score_grad, selection=selection, ramp=0), mlp)
    layer = next(iter(layers_of(net)))
    weight, scores, mask = layer.weight.numpy(), layer.scores.detach().numpy(), layer.mask().numpy()
    out = layer.ticket_weight()
    torch.testing.assert_close(out, torch.from_numpy(reference.signed_weight(weight, scores, mask)).float())
    upstream = torch.randn_like(out)
    out.backward(upstream)
    g = reference.gain(weight, mask)
    factor = {"weight": np.abs(weight), "sign": 1.0, "gain": g}[score_grad]  # |w| sign(s) sign(s), of the source
    torch.testing.assert_close(layer.scores.grad, upstream * torch.as_tensor(factor).float())


def test_the_signs_of_a_signed_ticket_are_stored_and_come_back(tmp_path, mlp):
    net = converted(mpt.Signed(prune=0.6), mlp).eval()
    ticket = mpt.Ticket.from_network(net)
    assert ticket.header["signs"] == "stored"
    ticket.save(tmp_path / "t.safetensors")
    x = torch.randn(5, 6)
    assert torch.equal(mpt.Ticket.load(tmp_path / "t.safetensors").network(mlp)(x), net(x))


def test_iterand_redraws_pruned_weights_from_named_streams_every_period(mlp):
    method = mpt.IteRand(prune=0.6, period=2, rate=0.5)
    net = converted(method, mlp, seed=3)
    mpt.start_epoch(net, 1)
    expected = {name: layer.weight.numpy().copy() for name, layer in ticket_layers(net).items()}
    for step in range(6):
        masks = {name: layer.mask().numpy() for name, layer in ticket_layers(net).items()}
        if step % 2 == 1:
            for name, weight in expected.items():
                stream = f"{name}/epoch 1/step {step}"
                fresh = random_weight(
                    torch.Size(weight.shape), seed=3, layer=stream, init=method.init, scale_fan="kept", prune=0.6
                )
                chances = stream_generator(3, f"iterand/{stream}").random(weight.size)
                expected[name] = reference.iterand(weight, fresh.numpy(), masks[name], chances, 0.5)
        net(torch.randn(4, 6)).sum().backward()
        for name, layer in ticket_layers(net).items():
            assert np.array_equal(layer.weight.numpy(), expected[name]), (name, step)
            with torch.no_grad():
                layer.scores += 0.1 * torch.randn_like(layer.scores)


def test_recycling_copies_the_most_important_values_over_the_least_important_ones(mlp):
    net = converted(mpt.Recycle(prune=0.6, period=1, rate=0.3), mlp)
    with torch.no_grad():
        for layer in layers_of(net):
            layer.scores.copy_(layer.scores.mul(20).round())  # with equal importances
    expected = [reference.recycle(layer.weight.numpy(), layer.scores.detach().numpy(), 0.3) for layer in layers_of(net)]
    net(torch.randn(4, 6))
    for layer, weight in zip(layers_of(net), expected, strict=True):
        assert np.array_equal(layer.weight.numpy(), weight)


def test_gem_lowers_what_is_left_geometrically_and_never_brings_a_weight_back(mlp):
    method = mpt.Gem(prune=0.8, epochs=9, period=2, strength=1e-4)
    net = converted(method, mlp)
    n, optimizer = (
        sum(layer.weight.numel() for layer in layers_of(net)),
        torch.optim.SGD([layer.scores for layer in layers_of(net)], lr=0.5, momentum=0.9),
    )
    lefts, dead = [], [torch.zeros_like(layer.weight, dtype=torch.bool) for layer in layers_of(net)]
    for epoch in range(9):
        mpt.start_epoch(net, epoch)
        for _ in range(3):
            optimizer.zero_grad()
            (net(torch.randn(8, 6)).square().mean() + method.penalty(ticket_layers(net))).backward()
            alive = [layer.weight != 0 for layer in layers_of(net)]
            for layer, was_dead, now in zip(layers_of(net), dead, alive, strict=True):
                assert not (was_dead & now).any()
                assert not (layer.mask() & ~now).any()
                assert ((layer.scores >= 0) & (layer.scores <= 1))[now].all()
            optimizer.step()
        dead = [~now for now in alive]
        lefts.append(sum(int(now.sum()) for now in alive))
    assert lefts == reference.gem_left(n, 0.8, epochs=9, period=2)
    assert lefts[-1] == pytest.approx(0.2 * n, abs=4)


def test_gem_gives_a_ticket_from_its_last_pruning_on(mlp):
    method = mpt.Gem(prune=0.8, epochs=10, period=3)
    net = converted(method, mlp)
    for epoch in range(9):
        mpt.start_epoch(net, epoch)
        net(torch.randn(4, 6))
        with pytest.raises(ValueError, match="of the 9 in which the fraction removed still rises to prune"):
            mpt.Ticket.from_network(net)
    mpt.start_epoch(net, 9)
    net(torch.randn(4, 6))
    assert mpt.Ticket.from_network(net).density <= 0.2
    assert mpt.Gem(prune=0.0, epochs=10).unfinished_epochs == 0


def test_gumbel_masks_are_sampled_in_training_with_the_slope_of_the_relaxed_gate(mlp):
    method = mpt.Gumbel(prune=0.8, temperature=0.7)
    scores = torch.linspace(-3, 3, 1000).view(10, 100)
    torch.manual_seed(5)
    mask, slope = method.sample(scores)
    torch.manual_seed(5)
    uniform = torch.rand_like(scores)
    for i in range(0, 1000, 37):
        keeps, expected = reference.gate(float(scores.flatten()[i]), float(uniform.flatten()[i]), 0.7, prune=0.8)
        assert bool(mask.flatten()[i]) == keeps
        assert float(slope.flatten()[i]) == pytest.approx(expected, rel=1e-4)
    assert float(method.sample(torch.zeros(100, 100))[0].float().mean()) == pytest.approx(0.2, abs=0.02)

    net = converted(method, mlp)
    layer = next(iter(layers_of(net)))
    torch.manual_seed(0)
    sampled = [layer.ticket_weight() != 0 for _ in range(2)]
    assert not torch.equal(*sampled)
    net.eval()
    kept = sum(int((layer.ticket_weight() != 0).sum()) for layer in layers_of(net))
    assert kept == method.num_kept(sum(layer.weight.numel() for layer in layers_of(net)))
    assert layer.scores[layer.mask()].min() > layer.scores[~layer.mask()].max()


@pytest.mark.parametrize("selection", ["global", "threshold"])
def test_the_penalty_of_gumbel_masks_is_the_expected_number_above_that_of_the_ticket(mlp, selection):
    threshold = 0.0 if selection == "threshold" else None
    method = mpt.Gumbel(prune=0.8, strength=0.01, selection=selection, threshold=threshold)
    net = converted(method, mlp)
    layers = ticket_layers(net)
    scores = [layer.scores for layer in layers.values()]
    with torch.no_grad():
        for s in scores:
            s.fill_(1.5)
    n = sum(s.numel() for s in scores)
    expected = 0.01 * n * (1 / (1 + math.exp(-1.5) * 4) - (0.2 if selection == "global" else 0))
    assert float(method.penalty(layers).detach()) == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():
        for s in scores:
            s.fill_(-1.5)
    assert (float(method.penalty(layers).detach()) > 0) == (selection == "threshold")


@pytest.mark.parametrize("method", [mpt.Gem(prune=0.9), mpt.Gumbel(prune=0.9, selection="layerwise")])
@pytest.mark.parametrize("scale_fan", ["kept", "none"])
def test_the_gain_of_a_mask_of_another_density_keeps_the_output_s_size(method, scale_fan):
    method = replace(method, scale_fan=scale_fan)
    weight = random_weight(
        torch.Size((64, 256)), seed=0, layer="a", init="kaiming_normal", scale_fan=scale_fan, prune=0.9
    )
    x = torch.randn(256, 256).relu()
    sizes = []
    for density in (0.5, 0.1):
        mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < density
        gain = method.layer_gain(weight, mask, axis=0)
        sizes.append(float((x @ method.ticket_weight(weight, mask, gain).T).std()))
    ratio = sizes[0] / sizes[1]
    assert ratio == pytest.approx(1 if scale_fan == "kept" else math.sqrt(5), rel=0.1)


def test_a_gumbel_mask_keeps_at_least_one_weight():
    mask, _ = mpt.Gumbel(prune=0.5).sample(torch.full((3, 3), -200.0))
    assert mask.sum() >= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mpt.Signed(prune=0.5, score_abs=False), "needs score_abs=true"),
        (lambda: mpt.IteRand(prune=0.5, period=0), "period is the steps"),
        (lambda: mpt.IteRand(prune=0.5, rate=0), r"rate is .* must be in \(0, 1\], got 0"),
        (lambda: mpt.IteRand(prune=0.5, rate=1.1), r"must be in \(0, 1\], got 1.1"),
        (lambda: mpt.IteRand(prune=0.5, learn_scores=False), "IteRand needs learn_scores=true"),
        (lambda: mpt.IteRand(prune=0.5, init="unsigned_constant"), "IteRand cannot change weights that all have one"),
        (lambda: mpt.Recycle(prune=0.5, rate=0.6), r"must be in \(0, 0.5\], got 0.6"),
        (lambda: mpt.Gem(prune=0.5, epochs=5, period=5), "whole number of at least 6, got 5"),
        (lambda: mpt.Gumbel(prune=0.5, temperature=0), "temperature is .* above 0, got 0"),
        (lambda: mpt.Gumbel(prune=0.5, score_abs=True), "Gumbel needs score_abs=false"),
        (lambda: mpt.Gumbel(prune=0.5, selection="layerwise", prune_layers={"0": 0.1}), "leave out prune_layers"),
        (lambda: mpt.Gumbel(prune=0.8, ramp=5), "take ramp=0"),
        (lambda: mpt.Gumbel(prune=0.5, power=2), "leave out prune_layers and power"),
        (lambda: mpt.Gem(prune=0.5, selection="global"), "Gem needs selection=threshold and"),
        (lambda: mpt.Gem(prune=0.5, score_abs=True), "Gem needs .* score_abs=false"),
        (lambda: mpt.Gumbel(prune=0.0), "prune must be above 0, got 0"),
        (lambda: mpt.Biprop(prune=0.5, score_lr=0), "score_lr is a factor of the learning rate .* above 0, got 0"),
        (lambda: mpt.EdgePopup(prune=0.5, gains="learned"), "edge-popup keeps real weights"),
        (lambda: mpt.IteRand(prune=0.5, period=300).check_run(epochs=9, steps=79), "set method.period to at most 79"),
        (lambda: mpt.Gem(prune=0.5, epochs=9).check_run(epochs=8, steps=9), "must be the epochs of the run, 8"),
    ],
)
def test_bad_choices_are_refused_in_one_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()
