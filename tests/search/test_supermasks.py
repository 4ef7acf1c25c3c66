from __future__ import annotations

import numpy as np
import pytest
import torch

import mpt
from mpt.search.layers import ticket_layers
from tests import reference


def converted(method, mlp, seed=0):
    return mpt.convert(mlp, method, seed=seed, example=torch.randn(2, 6)).train()


FROZEN = {"prune": 0.75, "pruned": 0.6, "locked": 0.5}


@pytest.mark.parametrize(
    ("selection", "more"),
    [("layerwise", {}), ("global", {}), ("calibrated", {}), ("threshold", {"threshold": 0.1})],
)
def test_a_pattern_prunes_and_keeps_its_weights_whatever_their_scores(mlp, selection, more):
    net = converted(mpt.PartlyFrozen(**FROZEN, selection=selection, **more), mlp, seed=3)
    before = {}
    for step in range(3):
        net(torch.randn(4, 6)).sum().backward()
        with torch.no_grad():
            for name, layer in ticket_layers(net).items():
                pattern = layer.pattern.numpy()
                assert np.array_equal(pattern, reference.pattern(pattern.shape, seed=3, layer=name, **FROZEN))
                mask, scores = layer.mask().numpy(), layer.scores.detach().numpy()
                assert mask[pattern > 0].all()
                assert not mask[pattern < 0].any()
                if selection == "layerwise":
                    assert np.array_equal(mask, reference.frozen_mask(scores, pattern, 0.75))
                if step:
                    assert np.array_equal(scores[pattern != 0], before[name][pattern != 0])
                assert not layer.scores.grad.numpy()[pattern != 0].any()
                assert layer.scores.grad.numpy()[pattern == 0].any()
                before[name] = scores.copy()
                layer.scores -= 3 * layer.scores.grad
                layer.scores.grad = None


def test_a_pattern_is_the_seed_s_and_no_part_of_the_state(mlp):
    method = mpt.PartlyFrozen(**FROZEN)
    one, same, other = (converted(method, mlp, seed=seed) for seed in (0, 0, 1))
    patterns = [[layer.pattern for layer in ticket_layers(net).values()] for net in (one, same, other)]
    assert all(torch.equal(a, b) for a, b in zip(*patterns[:2], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(patterns[0], patterns[2], strict=True))
    assert not any("pattern" in name for name in one.state_dict())


@pytest.mark.parametrize("coats", [[0.5], [0.3, 0.1], [0.9, 0.5, 0.01]])
def test_nested_masks_add_up_and_the_gradient_goes_through_each(mlp, coats):
    net = converted(mpt.Multicoated(prune=0.5, coats=coats), mlp)
    for layer in ticket_layers(net).values():
        weight, scores = layer.weight.numpy(), layer.scores.detach().numpy()
        expected, g = reference.multicoated(weight, scores, 0.5, coats)
        out = layer.ticket_weight()
        torch.testing.assert_close(out, torch.from_numpy(expected).float())
        upstream = torch.randn_like(out)
        out.backward(upstream)
        factor = (1 + len(coats)) * g * reference.sign(weight) * reference.sign(scores)
        torch.testing.assert_close(layer.scores.grad, upstream * torch.from_numpy(factor).float())
        assert float(layer.gain()) == pytest.approx(g)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mpt.Multicoated(prune=0.5, coats=[]), r"coats are .* as in \[0.25, 0.1\], got \[\]"),
        (lambda: mpt.Multicoated(prune=0.5, coats=[0.1, 0.2]), "each below the one before it"),
        (lambda: mpt.Multicoated(prune=0.5, coats=[1.0]), "below 1 and each below"),
        (lambda: mpt.Multicoated(prune=0.5, coats=[0]), "coats is a share .* got 0"),
        (lambda: mpt.Multicoated(prune=0.5, coats=0.5), "as in"),
        (lambda: mpt.Multicoated(prune=0.5, selection="global"), "needs selection=layerwise, because"),
        (lambda: mpt.Multicoated(prune=0.5, gains="learned"), "needs gains=layer, because"),
        (lambda: mpt.Multicoated(prune=0.5, gains="channel"), "needs gains=layer, because"),
        (lambda: mpt.Multicoated(prune=0.5, score_grad="weight"), "needs score_grad=gain, because"),
        (lambda: mpt.Multicoated(prune=0.5, prune_layers={"0": 0.1}), "leave out prune_layers and ramp"),
        (lambda: mpt.PartlyFrozen(prune=0.5, pruned=1.0), r"pruned is the share .* in \[0, 0.9\], got 1.0"),
        (lambda: mpt.PartlyFrozen(prune=0.5, locked=-0.1), r"locked is the share .* in \[0, 0.9\], got -0.1"),
        (lambda: mpt.PartlyFrozen(prune=0.5, pruned=0), "needs a pattern"),
        (lambda: mpt.PartlyFrozen(prune=0.8, selection="global", ramp=5), "set ramp=0"),
    ],
)
def test_bad_choices_are_refused_in_one_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()
