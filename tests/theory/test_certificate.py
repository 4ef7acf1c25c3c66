"""The certificate holds for every form, notices a mutated mask, and needs each of its terms."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import mpt
from mpt.search.layers import ticket_layers
from mpt.theory import intervals
from mpt.theory.certificate import bound_outputs, certified_labels, certify
from mpt.theory.construct import build_ticket
from mpt.theory.effective import effective_layers
from tests.theory.networks import cnn, images, mlp

FORMS = [("binary", 0.04), ("doubling", 0.04), ("real", 0.04)]
CASES = [pytest.param(mlp, *form, id=f"mlp-{form[0]}") for form in FORMS]
CASES += [pytest.param(cnn, *form, id=f"cnn-{form[0]}", marks=pytest.mark.slow) for form in FORMS]


def errors(target, net, x):
    """Largest error of each output over ``x``; in float64, so that only the networks differ."""
    with torch.no_grad():
        return (mpt.to_dense(net).double()(x.double()) - target.net(x.double())).abs()


@pytest.mark.parametrize("inputs", [(0.0, 1.0), (-1.0, 1.0)], ids=["pixels", "signed"])
@pytest.mark.parametrize(("build", "form", "accuracy"), CASES)
def test_no_error_exceeds_the_certificate(build, form, accuracy, inputs):
    net = build()
    made = build_ticket(net, accuracy=accuracy, form=form, inputs=inputs)
    low, high = inputs
    x = images(net, 1000) * (high - low) + low
    seen, proof = errors(made.target, made.network(), x), made.certificate
    assert proof.weight_error <= accuracy
    assert 0 < seen.max() <= proof.output_error
    state = bound_outputs(made.target, effective_layers(made.target, made.ticket), x)
    assert (seen <= state.error).all()
    assert state.error.max() <= proof.output_error * (1 + 1e-9)
    y = made.target.net(x.double()).detach()
    assert (torch.tensor(proof.output_low) <= y - seen).all()
    assert (y + seen <= torch.tensor(proof.output_high)).all()
    sure = certified_labels(state)
    assert torch.equal(made.network()(x).argmax(1)[sure], y.argmax(1)[sure])


@pytest.mark.parametrize("which", ["an outer bit added", "an outer bit removed", "a second inner entry"])
def test_a_mutated_mask_changes_the_certificate_and_stays_sound(which):
    net = mlp()
    made = build_ticket(net, accuracy=0.04)
    built = made.network()
    layers = ticket_layers(built)
    name = "classifier.0.0" if which == "a second inner entry" else "classifier.0.2"
    layer = layers[name]
    used = layers["classifier.0.0"].mask().any(dim=1).nonzero().flatten()
    with torch.no_grad():
        row = layer.scores if name.endswith(".2") else layer.scores[used]
        wanted = 1.0 if "removed" in which else 0.0
        columns = row[0, used] if name.endswith(".2") else row[0]
        at = int((columns == wanted).nonzero()[0])
        if name.endswith(".2"):
            layer.scores[0, used[at]] = 1 - wanted
        else:
            layer.scores[used[0], at] = 1
        layer.num_kept += 1 if wanted == 0 else -1
    low, high = torch.zeros(1, 4, 4), torch.ones(1, 4, 4)
    proof = certify(net, built, low, high)
    x = images(net, 1000)
    assert proof.output_error != made.certificate.output_error
    assert errors(made.target, built, x).max() <= proof.output_error
    assert math.isinf(proof.weight_error) == (which == "a second inner entry")
    assert proof.as_dict()["weight_error"] is None or which != "a second inner entry"


def test_without_the_error_that_comes_from_below_a_certificate_would_be_wrong(monkeypatch):
    """The mutant that leaves out ``|W^| error``: some network of a chain of layers has a larger error."""
    made = build_ticket(mlp(hidden=(30, 20)), accuracy=0.06)
    x = images(mlp(), 1000)
    seen = errors(made.target, made.network(), x)
    built = effective_layers(made.target, made.ticket)
    assert (seen <= bound_outputs(made.target, built, x).error).all()
    affine = intervals.affine

    def forgetful(layer, state, built):
        return affine(layer, dataclasses.replace(state, error=torch.zeros_like(state.error)), built)

    monkeypatch.setattr(intervals, "affine", forgetful)
    assert (seen > bound_outputs(made.target, built, x).error).any()


def test_boxes_that_are_none_are_refused():
    net = mlp()
    made = build_ticket(net, accuracy=0.05)
    zeros = torch.zeros(1, 4, 4)
    for low, high, words in (
        (zeros + 1, zeros, "low 1 is above high 0"),
        (zeros, zeros[0], "one shape"),
        (zeros, zeros + torch.nan, "not finite"),
    ):
        with pytest.raises(ValueError, match=words):
            certify(net, made.ticket, low, high)
