"""Rounding for given inputs: each weight stays within the accuracy, and outputs there change less."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from mpt.theory.construct import build_ticket
from mpt.theory.rounding import PASSES, fineness, fitted, moments_of
from mpt.theory.target import prepare
from tests.theory.networks import cnn, images, mlp


def test_moments_are_those_of_each_layer_s_inputs():
    target = prepare(mlp())
    x = images(mlp(), 50)
    first = x.flatten(1).double()
    hidden = (first @ target.layers["classifier.0"].weight.T).relu().detach()
    found = moments_of(target, x)
    assert np.allclose(found["classifier.0"], first.T @ first / len(x))
    assert np.allclose(found["classifier.2"], hidden.T @ hidden / len(x))


@pytest.mark.parametrize("choices", [{"padding": 1}, {"padding": "same", "dilation": 2}, {"stride": 2}])
def test_moments_of_a_convolution_give_its_mean_square_output(choices):
    net = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False, **choices), nn.ReLU()).eval()
    x = torch.rand(5, 2, 8, 8, dtype=torch.float64)
    target = prepare(net)
    moment, flat = moments_of(target, x)["0"], target.layers["0"].weight.flatten(1).numpy()
    seen = target.layers["0"](x).square().mean((0, 2, 3))
    assert np.allclose(np.einsum("ij,jk,ik->i", flat, moment, flat), seen.detach())


def test_no_count_leaves_the_accuracy_and_the_error_at_the_inputs_falls():
    generator = np.random.default_rng(0)
    w, x = generator.normal(0, 0.1, (20, 60)), generator.random((500, 4)) @ generator.random((4, 60))
    gain, moment = 0.016, x.T @ x / len(x)
    counts = fitted(w, moment, gain=gain, accuracy=0.01)
    built, nearest = np.sign(w) * counts * gain, np.round(w / gain) * gain
    assert np.abs(built - w).max() <= 0.01
    assert (((built - w) @ x.T) ** 2).mean() < 0.3 * (((nearest - w) @ x.T) ** 2).mean()


def test_a_row_of_few_weights_is_rounded_no_worse_than_to_the_nearest_and_near_the_best():
    generator = np.random.default_rng(1)
    w, x = generator.uniform(-0.1, 0.1, (1, 8)), generator.random((100, 8))
    moment = x.T @ x / len(x)
    near = np.floor(np.abs(w[0]) / 0.016)
    choices = np.array(list(itertools.product(*[(n, n + 1) for n in near])))
    errors = np.sign(w) * choices * 0.016 - w
    within = np.abs(errors).max(1) <= 0.01
    cost = np.einsum("ij,jk,ik->i", errors, moment, errors)
    built = np.sign(w) * fitted(w, moment, gain=0.016, accuracy=0.01) * 0.016 - w
    mine, nearest = (
        float(d @ moment @ d) for d in (built[0], (np.sign(w) * np.round(np.abs(w) / 0.016) * 0.016 - w)[0])
    )
    assert cost[within].min() - 1e-15 <= mine <= min(nearest, 4 * cost[within].min())


def test_the_descent_is_that_of_trying_the_other_multiple_of_each_weight_in_turn():
    generator = np.random.default_rng(2)
    w, x = generator.normal(0, 0.1, (4, 12)), generator.random((40, 12))
    moment = x.T @ x / len(x)
    built = np.round(w / 0.016) * 0.016
    for row, column in [(i, j) for _ in range(PASSES) for j in range(12) for i in range(4)]:
        errors = {}
        for value in (built[row, column] - 0.016, built[row, column], built[row, column] + 0.016):
            changed = built[row] - w[row]
            changed[column] = value - w[row, column]
            errors[value] = changed @ moment @ changed if abs(changed[column]) <= 0.01 else np.inf
        built[row, column] = min(errors, key=errors.__getitem__)
    assert (fitted(w, moment, gain=0.016, accuracy=0.01) == np.rint(np.abs(built) / 0.016)).all()


def test_no_other_fineness_of_as_many_kept_weights_adds_a_smaller_error():
    target = prepare(cnn())
    finer = fineness(target)
    sizes = np.array([float(layer.weight.abs().sum()) for layer in target.layers.values()])
    best = np.array([finer[name] for name in target.layers])
    assert best.min() == 1 == best[sizes.argmax()]
    for other in best * np.random.default_rng(0).uniform(0.5, 2, (500, len(best))):
        other *= (best @ sizes) / (other @ sizes)
        assert (other**-2.0).sum() >= (best**-2.0).sum()


def test_a_layer_of_few_weights_is_finer_than_the_accuracy():
    net = cnn()
    made = build_ticket(net, accuracy=0.05, fit=images(net, 100))
    errors, finer = made.certificate.weight_errors, fineness(made.target)
    assert max(finer.values()) > 1.3
    assert all(error <= 0.05 / finer[name] for name, error in errors.items())
    assert all(error > 0.03 / finer[name] for name, error in errors.items())


@pytest.mark.parametrize("build", [mlp, cnn])
def test_a_ticket_that_is_rounded_for_images_is_nearer_to_its_target_there(build):
    net = build()
    x = images(net, 300)
    fit, other = x[::2], x[1::2]
    plain = build_ticket(net, accuracy=0.05)
    made = build_ticket(net, accuracy=0.05, fit=fit)
    assert made.certificate.weight_error <= 0.05
    assert made.ticket.header["constructed"]["fit"] == len(fit)
    assert made.ticket.header["signs"] == "seed"
    with torch.no_grad():
        errors = [(some.network()(other) - net(other)).square().mean() for some in (made, plain)]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize(
    ("fit", "choices", "words"),
    [
        (torch.zeros(3, 15), {}, r"fit must be a batch of inputs, \(N, 16\), got \(3, 15\)"),
        ([1.0], {}, "got list"),
        (torch.zeros(0, 1, 4, 4), {}, "fit must be a batch"),
        (torch.full((2, 1, 4, 4), torch.nan), {}, "not finite"),
        (torch.zeros(3, 1, 4, 4), {"form": "real"}, "only with form=binary"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(fit, choices, words):
    with pytest.raises(ValueError, match=words):
        build_ticket(mlp(), accuracy=0.05, fit=fit, **choices)
