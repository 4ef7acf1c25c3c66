from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import mpt
from mpt.search.divided import DividedGains


def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
    )


def warned(method, **more):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        converted = mpt.convert(net(), method, example=torch.randn(4, 3, 8, 8), **more)
    return converted, [str(w.message) for w in caught if issubclass(w.category, DividedGains)]


@pytest.mark.parametrize("gains", ["channel", "learned"])
@pytest.mark.parametrize("learn_batchnorm", [False, True])
def test_layers_before_a_batchnorm_are_named(gains, learn_batchnorm):
    converted, texts = warned(mpt.Biprop(prune=0.5, gains=gains), learn_batchnorm=learn_batchnorm)
    (text,) = texts
    assert text.startswith(f"gains={gains} changes nothing in 1 of 3 searched layers")
    assert "divides the gains out: 0; there" in text
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in converted.modules())


def test_a_batchnorm_divides_a_gain_out():
    converted, _ = warned(mpt.Biprop(prune=0.5, gains="learned"))
    converted.train()
    x = torch.randn(16, 3, 8, 8)
    before = converted(x)
    with torch.no_grad():
        converted[0].log_gain += torch.linspace(-1, 1, 8).view(8, 1, 1, 1)
    torch.testing.assert_close(converted(x), before, rtol=1e-3, atol=1e-3)


def test_one_gain_for_a_layer_is_not_warned_of():
    assert warned(mpt.Biprop(prune=0.5))[1] == []
