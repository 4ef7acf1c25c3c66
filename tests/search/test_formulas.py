from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import mpt
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
        (own(importance=lambda self, s: s / 0), 0, r"Own\.importance must return finite numbers"),
        (own(ticket_weight=lambda self, w, m, g: w / 0), 0, r"Own\.ticket_weight must return finite numbers"),
        (own(ticket_weight=lambda self, w, m, g: w[:1]), 0, r"Own\.ticket_weight .* \(8, 6\) .* and returned \(1, 6\)"),
        (
            own(sample=lambda self, s: 3),
            0,
            r"Own\.sample must return None, or a mask and its slope, and returned a int",
        ),
        (own(sample=lambda self, s: (s > 0, s[0])), 0, r"Own\.sample .* of the shape \(8, 6\), and returned \(6,\)"),
        (own(pattern=(2, 3)), 0, r"Own\.pattern must be None or two shares in \[0, 1\), .* and is \(2, 3\)"),
        (own(mask=lambda self, s: s > 0), 0, r"Own\.mask must be defined as mask\(self, scores, \*, kept\): .*'kept'"),
        (
            own(update=lambda self, layers: None),
            0,
            r"Own\.update must be .* update\(self, layers, \*, seed, epoch, step\)",
        ),
        (own(penalty=lambda self, layers: torch.tensor(1.0) / 0), 0, r"Own\.penalty must return finite numbers"),
        (own(penalty=lambda self, layers: torch.ones(2)), 0, r"Own\.penalty .* \(\) of .* and returned \(2,\)"),
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
