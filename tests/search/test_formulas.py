from __future__ import annotations

import dataclasses
import functools
import math
import random
import threading
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import mpt
from mpt.search.formulas import FORMULAS, check_formulas
from tests.own_methods import PerChannel


@dataclass(frozen=True, kw_only=True)
class Flat(mpt.Biprop):
    """A gain for each output channel in a shape that does not broadcast."""

    def gain(self, weight, mask):
        return (weight.abs() * mask).mean(1)


@dataclass(frozen=True, kw_only=True)
class Narrow(mpt.Biprop):
    """A source of another shape."""

    def source(self, weight, scores):
        return weight[:, :1]


@dataclass(frozen=True, kw_only=True)
class Double(mpt.Biprop):
    """A source of another type."""

    def source(self, weight, scores):
        return weight.double()


@dataclass(frozen=True, kw_only=True)
class Bare(mpt.Method):
    """No formula at all."""


def own(**formulas):
    """A method with these formulas, called Own."""
    return dataclass(frozen=True, kw_only=True)(type("Own", (mpt.Biprop,), formulas))(prune=0.5)


@pytest.mark.parametrize(
    ("method", "seed", "message"),
    [
        (Flat(prune=0.5), 0, r"Flat\.gain must return one number, or .* the weight's \(8, 6\), .* returned \(8,\)"),
        (Narrow(prune=0.5), 0, r"Narrow\.source must return .* \(8, 6\) of torch.float32, and returned \(8, 1\)"),
        (Double(prune=0.5), 0, r"returned \(8, 6\) of torch.float64"),
        (own(gain=lambda self, w, m: 1.0), 0, r"Own\.gain must return one number, .* and returned a float"),
        (own(gain=lambda self, w, m: w.sum() / 0), 0, r"Own\.gain must return finite numbers"),
        (own(importance=lambda self, s: s[:3]), 0, r"Own\.importance must return .* \(8, 6\) .* and returned \(3, 6\)"),
        (own(mask=lambda self, s, *, kept: 1.0 * (s > 0)), 0, r"Own\.mask .* of torch.bool, and returned .*float32"),
        (own(score_gradient=lambda self, g, w, s, gain: g.sum()), 0, r"Own\.score_gradient .* and returned \(\) of"),
        (own(importance=lambda self, s: (s - s) / 0), 0, r"Own\.importance must return .* an order, and returned NaN"),
        (
            own(ticket_weight=lambda self, w, m, g: w / 0),
            0,
            r"Own\.ticket_weight .* finite .* with 24 of 48 weights kept",
        ),
        (
            own(mask=lambda self, s, *, kept: s > 9),
            0,
            r"Own\.ticket_weight .* finite .* with 0 of 48 weights kept it did not",
        ),
        (own(ticket_weight=lambda self, w, m, g: w.double()), 0, r"Own\.ticket_weight .* and returned .*float64"),
        (own(ticket_weight=lambda self, w, m, g: w[:1]), 0, r"Own\.ticket_weight .* \(8, 6\) .* and returned \(1, 6\)"),
        (
            own(sample=lambda self, s: 3),
            0,
            r"Own\.sample must return None, or a mask and its slope, and returned a int",
        ),
        (
            own(sample=lambda self, s: (s > 0, s[:, 0])),
            0,
            r"Own\.sample .* to the weight's \(8, 6\), and returned \(8,\)",
        ),
        (own(sample=lambda self, s: (s > 0, 1.0)), 0, r"Own\.sample .* tensors .*, and returned a float"),
        (
            own(sample=lambda self, s: (s[:1] > 0, s)),
            0,
            r"Own\.sample .* \(8, 6\), and returned \(1, 6\) of .* the gain",
        ),
        (
            own(sample=lambda self, s: (s.sigmoid(), s)),
            0,
            r"Own\.sample .* a bool mask .*float32, .* ticket_weight fails",
        ),
        (own(sample=lambda self, s: torch.stack([s, s])), 0, r"Own\.sample .* and returned \(2, 8, 6\)"),
        (own(importance=3), 0, r"Own\.importance must be defined as importance\(self, scores\): 3 is not a callable"),
        (own(pattern="ab"), 0, r"Own\.pattern must be None or two shares in \[0, 1\), .* and is 'ab'"),
        (own(pattern=[0.5]), 0, r"Own\.pattern must be None or two shares in \[0, 1\), .* and is \[0\.5\]"),
        (own(pattern=(2, 3)), 0, r"Own\.pattern must be None or two shares in \[0, 1\), .* and is \(2, 3\)"),
        (own(mask=lambda self, s: s > 0), 0, r"Own\.mask must be defined as mask\(self, scores, \*, kept\): .*'kept'"),
        (
            own(update=lambda self, layers: None),
            0,
            r"Own\.update must be .* update\(self, layers, \*, seed, epoch, step\)",
        ),
        (own(penalty=lambda self, layers: torch.tensor(1.0) / 0), 0, r"Own\.penalty .* finite .* for the first scores"),
        (own(penalty=lambda self, layers: math.nan), 0, r"Own\.penalty .* finite .* for the first scores it did not"),
        (own(penalty=lambda self, layers: torch.ones(2)), 0, r"Own\.penalty .* \(\) of .* and returned \(2,\)"),
        (Bare(prune=0.5), 0, r"^Bare must define ticket_weight\(self, weight, mask, gain\)$"),
        (mpt.IteRand(prune=0.5), None, "IteRand draws weights again, and with seed=None"),
    ],
)
def test_what_no_layer_can_compute_with_is_refused_at_conversion(mlp, method, seed, message):
    with pytest.raises(ValueError, match=message):
        mpt.convert(mlp, method, seed=seed, example=torch.zeros(2, 6))


@pytest.mark.parametrize("method", [PerChannel(prune=0.5), mpt.Signed(prune=0.5), mpt.Recycle(prune=0.5)])
@pytest.mark.parametrize("seed", [0, None])
def test_what_layers_can_compute_with_is_taken(method, seed):
    net = mpt.convert(nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU()), method, seed=seed, example=torch.zeros(2, 2, 4, 4))
    assert net(torch.randn(2, 2, 4, 4)).shape == (2, 3, 3, 3)


def keep_wrapped(formula):
    """``formula``, without the argument ``kept``."""

    @functools.wraps(formula)
    def with_kept(self, scores, *, kept):
        return formula(self, scores)

    return with_kept


class Largest:
    """A formula that is an object."""

    def __call__(self, scores):
        return scores.detach()


class Sampled(NamedTuple):
    mask: torch.Tensor
    slope: torch.Tensor


def above(scores):
    return scores.detach() > 0


def fail_on_everything(self, weight, mask, gain):
    if mask.all():
        raise RuntimeError("nothing is pruned")
    return weight * mask * (mask.numel() / (~mask).sum())


@pytest.mark.parametrize(
    "formulas",
    [
        {"importance": staticmethod(lambda scores: scores.detach().abs())},
        {"importance": staticmethod(torch.abs)},
        {"importance": torch.abs},
        {"importance": classmethod(lambda cls, scores: scores.detach())},
        {"importance": functools.partialmethod(lambda self, power, scores: scores.detach().abs() ** power, 2)},
        {"importance": lambda self, scores, power=2, **more: scores.detach().abs() ** power},
        {"importance": lambda *arguments, **named: arguments[1].detach()},
        {"importance": Largest()},
        {"importance": torch.compile(lambda self, scores: scores.detach().square(), backend="eager")},
        {"importance": lambda self, scores: scores.detach().masked_fill(scores < 0, -math.inf)},
        {"importance": lambda self, scores: scores.detach().masked_fill(scores > 0.3, math.inf)},
        {"importance": lambda self, scores: scores.detach().double().abs()},
        {"gain": lambda self, weight, mask: (weight.abs() * ~mask).sum() / (~mask).sum()},
        {"score_gradient": lambda self, grad, weight, scores, gain: (grad * weight).double()},
        {"mask": keep_wrapped(lambda self, scores: scores.detach() > 0)},
        {"mask": lambda self, scores, **named: scores.detach() > 0},
        {"ticket_weight": lambda self, weight, mask, gain, scale=2.0: scale * mask * weight},
        {"ticket_weight": fail_on_everything},
        {"ticket_weight": lambda self, weight, mask, gain: weight * mask * (mask.numel() / (~mask).sum())},
        {"sample": lambda self, scores: (above(scores), torch.tensor(1.0))},
        {"sample": lambda self, scores: (above(scores), torch.ones(8, 1))},
        {"sample": lambda self, scores: (above(scores), torch.ones(6))},
        {"sample": lambda self, scores: (above(scores), None)},
        {"sample": lambda self, scores: [above(scores), torch.ones(8, 6)]},
        {"sample": lambda self, scores: Sampled(above(scores), torch.ones(8, 6))},
        {"sample": lambda self, scores: ()},
        {
            "sample": lambda self, scores: (above(scores[:, :1]), torch.tensor(1.0)),
            "ticket_weight": lambda self, weight, mask, gain: weight * mask,
        },
        {
            "sample": lambda self, scores: (scores.sigmoid(), torch.tensor(1.0)),
            "gain": lambda self, weight, mask: weight.abs().mean(),
            "ticket_weight": lambda self, weight, mask, gain: gain * weight * mask,
        },
        {"pattern": [0.5, 0.25]},
        {"pattern": property(lambda self: [0, 0.5])},
        {"penalty": lambda self, layers: None},
        {"penalty": lambda self, layers: 0.0},
        {"penalty": lambda self, layers: sum(layer.scores.double().abs().sum() for layer in layers.values())},
        {"update": lambda self, layers, **moment: None},
    ],
)
def test_formulas_of_every_form_are_taken(formulas):
    net = mpt.convert(nn.Linear(6, 8), own(**formulas), example=torch.randn(2, 6))
    net(torch.randn(4, 6)).square().sum().backward()
    assert net.scores.grad.any()


@pytest.mark.parametrize("kind", [KeyError, NotImplementedError])
@pytest.mark.parametrize("formula", ["importance", "mask", "gain", "source", "ticket_weight"])
def test_a_formula_that_fails_is_named_with_its_line_by_the_forward(mlp, formula, kind):
    def fail(self, *arguments, **named):
        raise kind("k")

    with pytest.raises(
        ValueError, match=rf"\({kind.__name__}: {kind('k')}\): correct line \d+ of test_formulas.py, in fail$"
    ):
        mpt.convert(mlp, own(**{formula: fail}), example=torch.ones(2, 6))


def test_a_formula_that_needs_the_scores_of_a_training_step_is_left_to_it():
    def sample(self, scores):
        if scores.abs().max() < 1:
            raise RuntimeError("too early")
        return above(scores), torch.tensor(1.0)

    net = mpt.convert(nn.Linear(6, 8), own(sample=sample), example=torch.randn(2, 6))
    net.scores.data[0, 0] = 2
    net(torch.randn(4, 6)).sum().backward()
    assert net.scores.grad.any()


def test_an_importance_that_has_no_order_is_taken_where_nothing_is_ranked():
    method = own(
        importance=lambda self, s: nn.functional.normalize((s - s.mean()).detach().flatten(), eps=0, dim=0).view_as(s)
    )
    backbone = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 8))  # the size of one score's spread is 0
    mpt.convert(backbone, method, example=torch.ones(2, 1))
    method = own(importance=lambda self, s: s.detach().sqrt())
    method = dataclasses.replace(method, selection="threshold", threshold=0.1)
    net = mpt.convert(nn.Linear(6, 8), method, example=torch.randn(2, 6))
    assert torch.equal(net.mask(), net.scores.sqrt() > 0.1)


def test_a_ticket_weight_for_autocast_is_taken_under_it():
    method = own(ticket_weight=lambda self, weight, mask, gain: (weight * mask).bfloat16())
    x = torch.randn(2, 6)
    with pytest.raises(ValueError, match=r"Own\.ticket_weight must return .*float32, and returned .*bfloat16"):
        mpt.convert(nn.Linear(6, 8), method, example=x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert mpt.convert(nn.Linear(6, 8), method, example=x)(x).dtype == torch.bfloat16


def noting(formula):
    def noted(self, *arguments, **named):
        self.notes.append(formula)
        return getattr(mpt.Biprop, formula)(self, *arguments, **named)

    return noted


@pytest.mark.parametrize("held", [None, threading.Lock()], ids=["copied", "not copied"])
def test_the_check_leaves_the_state_of_a_method_and_the_scores_alone(mlp, held):
    formulas = [formula for formula in FORMULAS if formula != "update"]
    method = own(**{formula: noting(formula) for formula in formulas})
    object.__setattr__(method, "notes", [])
    object.__setattr__(method, "held", held)
    net = mpt.convert(mlp, mpt.Biprop(prune=0.5), example=torch.ones(2, 6))
    check_formulas(net, method, seed=0)
    assert method.notes == []
    before = net[0].scores.clone()
    check_formulas(net, own(importance=lambda self, scores: scores.abs_()), seed=0)
    assert torch.equal(net[0].scores, before)


@dataclass(frozen=True, kw_only=True)
class Annealed(mpt.Biprop):
    """Counts its samples, which draw from every global generator."""

    counts: list[int] = field(default_factory=list)

    def sample(self, scores):
        self.counts.append(random.random() < np.random.rand())  # noqa: NPY002
        return torch.rand_like(scores) < 0.5, torch.tensor(1.0)

    def ticket_weight(self, weight, mask, gain):
        torch.rand(3)
        return weight * mask


@pytest.mark.parametrize("method", [mpt.Gumbel(prune=0.5), Annealed(prune=0.5)], ids=["gumbel", "own"])
def test_conversion_leaves_the_global_generators_and_the_state_of_a_method_alone(mlp, method):
    example = torch.randn(2, 6)
    random.seed(3), np.random.seed(3), torch.manual_seed(3)  # noqa: NPY002
    expected = random.random(), np.random.rand(), float(torch.rand(1))  # noqa: NPY002
    random.seed(3), np.random.seed(3), torch.manual_seed(3)  # noqa: NPY002
    mpt.convert(mlp, method, seed=0, example=example)
    assert (random.random(), np.random.rand(), float(torch.rand(1))) == expected  # noqa: NPY002
    assert not getattr(method, "counts", None)
