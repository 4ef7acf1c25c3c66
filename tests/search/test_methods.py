from __future__ import annotations

import pytest
import torch

import mpt
from mpt.search.layers import ticket_layers


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"prune": 1.2}, "prune is the fraction removed and must be in"),
        ({"prune": 0.5, "score_grad": "sgn"}, "score_grad must be one of weight, sign, gain, got 'sgn'"),
        ({"prune": 0.5, "init": "zeros"}, "init must be one of kaiming_normal"),
        ({"prune": 0.5, "scale_fan": "yes"}, "scale_fan must be one of none, kept, published"),
        ({"prune": 0.5, "score_abs": "abc"}, "score_abs is true or false"),
        ({"prune": 0.0, "scale_fan": "published"}, "scale_fan=published multiplies the fan by prune"),
        ({"prune": 0.5, "prune_layers": {"0": 0.0}, "scale_fan": "published"}, "must then be above 0, got 0"),
        ({"prune": 0.5, "selection": "sort"}, "selection must be one of layerwise, global, threshold, calibrated, got"),
        (
            {"prune": 0.5, "selection": "threshold"},
            r"give it with selection=threshold and with no other, got selection",
        ),
        (
            {"prune": 0.5, "threshold": 0.1},
            r"give it with selection=threshold .* got selection=layerwise and threshold",
        ),
        (
            {"prune": 0.5, "selection": "threshold", "threshold": -1.0},
            "threshold is an importance and must be 0 or more",
        ),
        ({"prune": 0.5, "selection": "threshold", "threshold": float("nan")}, "threshold is an importance"),
        (
            {"prune": 0.8, "selection": "threshold", "threshold": 0.1, "ramp": 3},
            "ramp lets prune rise, which selection",
        ),
        ({"prune": 0.5, "selection": "calibrated", "refresh": 0}, "refresh is .* a whole number of at least 1, got 0"),
        ({"prune": 0.5, "ramp": -1}, "ramp is .* a whole number of at least 0, got -1"),
        ({"prune": 0.5, "ramp": 2.5}, "ramp is .* a whole number"),
        ({"prune": 0.5, "power": 0.5}, "power is the exponent of power-propagation and must be at least 1, got 0.5"),
        ({"prune": 0.5, "power": float("inf")}, "power is the exponent"),
        ({"prune": 0.5, "score_init": "normal"}, "score_init must be one of uniform, constant, unit, got 'normal'"),
        ({"prune": 0.5, "score_start": "rooted"}, "score_start must be one of plain, matched, got 'rooted'"),
        ({"prune": 0.5, "prune_layers": {"0": 1.5}}, r"prune_layers\['0'\] is the fraction removed and must be in"),
        ({"prune": 0.5, "prune_layers": 0.3}, "prune_layers gives the fraction removed from layers by name or pattern"),
        ({"prune": 0.5, "prune_layers": {"0": 0.3}, "selection": "global"}, "layer by layer, which selection=global"),
    ],
)
@pytest.mark.parametrize("kind", [mpt.Biprop, mpt.EdgePopup])
def test_impossible_choices_are_refused_with_their_name(kind, choices, sentence):
    with pytest.raises(ValueError, match=sentence):
        kind(**choices)


def test_the_dense_baseline_removes_nothing():
    with pytest.raises(ValueError, match="dense baseline removes none"):
        mpt.Dense(prune=0.5)


def test_the_dense_baseline_refuses_options_of_a_search():
    unused = {"selection": "global", "power": 2.0, "prune_layers": {"*": 0.5}, "gains": "learned", "score_lr": 0.1}
    for name, value in unused.items():
        with pytest.raises(ValueError, match=f"the dense baseline has no masks, gains or scores: leave out {name}$"):
            mpt.Dense(**{name: value})
    assert not mpt.Dense(init="signed_constant", bias=False).bias


@pytest.mark.parametrize(
    ("choices", "epochs"),
    [
        ({"prune": 0.8}, 0),
        ({"prune": 0.8, "ramp": 3}, 3),
        ({"prune": 0.8, "selection": "global"}, 10),
        ({"prune": 0.8, "selection": "global", "ramp": 0}, 0),
        ({"prune": 0.3, "selection": "global"}, 0),
        ({"prune": 0.5, "selection": "global"}, 0),
        ({"prune": 0.8, "selection": "calibrated"}, 0),
        ({"prune": 0.3, "prune_layers": {"0": 0.9}, "ramp": 3}, 3),
    ],
)
def test_a_ramp_lasts_only_where_the_fraction_removed_rises(choices, epochs):
    assert mpt.Biprop(**choices).ramp_epochs == epochs


def test_a_method_with_its_own_mask_selects_layer_by_layer():
    class Own(mpt.Biprop):
        def mask(self, scores, *, kept):
            return super().mask(-scores, kept=kept)

    assert Own(prune=0.5).selection == "layerwise"
    with pytest.raises(ValueError, match="Own defines its own mask, layer by layer: selection must be layerwise"):
        Own(prune=0.5, selection="global")


def test_a_method_is_frozen_and_compares_by_its_choices():
    assert mpt.Biprop(prune=0.5) == mpt.Biprop(prune=0.5) != mpt.Biprop(prune=0.6)
    assert (
        mpt.Biprop(prune=0.5, prune_layers={"0": 0.1})
        != mpt.Biprop(prune=0.5)
        == mpt.Biprop(prune=0.5, prune_layers={})
    )
    assert hash(mpt.Biprop(prune=0.5, prune_layers={"0": 0.1}))
    with pytest.raises(AttributeError):
        mpt.Biprop(prune=0.5).prune = 0.6


def test_a_penalty_is_none_unless_a_method_has_one_whose_gradient_reaches_the_scores(mlp):
    class SmallScores(mpt.Biprop):
        def penalty(self, layers):
            return sum(0.5 * layer.scores.square().sum() for layer in layers.values())

    plain, net = (mpt.convert(mlp, kind(prune=0.5), seed=0).train() for kind in (mpt.Biprop, SmallScores))
    assert plain.conversion.method.penalty(ticket_layers(plain)) is None
    x = torch.randn(4, 6)
    plain(x).sum().backward()
    (net(x).sum() + net.conversion.method.penalty(ticket_layers(net))).backward()
    for one, other in zip(ticket_layers(plain).values(), ticket_layers(net).values(), strict=True):
        torch.testing.assert_close(other.scores.grad, one.scores.grad + one.scores)
