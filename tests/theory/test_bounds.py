from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mpt.theory.bounds import required, scale_of, weight_accuracy
from tests.theory.networks import cnn, mlp


def of(rows, key):
    return [row for row in rows if row.theorem == key]


def test_theorem_2_of_a_network_that_meets_its_conditions():
    """n = s = 10, l = 2, eps = .1: k = 100 ceil(32 l sqrt(ns) / eps + 16 ln(2 n s l / .05)) = 654,400."""
    net = nn.Sequential(nn.Linear(10, 10, bias=False), nn.ReLU(), nn.Linear(10, 10, bias=False))
    with torch.no_grad():  # a Hadamard-like matrix would do; the scales cancel a matrix of c = 1
        for layer in (net[0], net[2]):
            layer.weight.copy_(torch.eye(10) / math.sqrt(10))
            layer.weight[0] = 1 / math.sqrt(10) / 10
    scales = [scale_of(layer) for layer in (net[0], net[2])]
    assert all(0.9 < scale < 1.1 for scale in scales)
    rows = of(required(net, error=0.1 * math.prod(scales), delta=0.05, radius=1), "diffenderfer")
    assert [round(row.width) for row in rows] == [654_400] * 2
    assert rows[0].accuracy == pytest.approx(weight_accuracy(error=0.1, layers=2, rows=10, columns=10))


def test_every_theorem_asks_something_of_every_layer_and_later_ones_ask_less():
    rows = required(mlp(), error=0.1)
    assert {row.layer for row in rows} == {"classifier.0", "classifier.2"}
    first = [row for row in rows if row.layer == "classifier.0"]
    assert [row.theorem for row in first] == [
        *("malach", "diffenderfer", "counting", "golden_ratio", "subset_sum", "doubling")
    ]
    widths = {row.theorem: row.width for row in first}
    assert widths["malach"] > widths["diffenderfer"] > widths["counting"] > widths["golden_ratio"]
    assert widths["golden_ratio"] > widths["doubling"] > widths["subset_sum"]
    assert {row.theorem: row.proved for row in first}["subset_sum"] == "measured"
    assert all(row.needed is None or row.needed <= row.neurons for row in rows)


@pytest.mark.slow
def test_a_convolution_counts_its_positions():
    example = torch.zeros(1, 1, 8, 8)
    rows = of(required(cnn(), error=1.0, example=example), "diffenderfer")
    assert [(row.rows, row.columns) for row in rows] == [(4, 9), (6, 36), (10, 24)]
    larger = of(required(cnn(), error=1.0, example=example, radius=16.0), "diffenderfer")
    assert all(b.accuracy == pytest.approx(a.accuracy / 2) for a, b in zip(rows, larger, strict=True))
    with pytest.raises(ValueError, match="give example=<one image>"):
        required(cnn(), error=1.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"error": 0.0}, "error is the largest error of the output"),
        ({"error": 0.1, "delta": 1.0}, "delta must be"),
        ({"error": 0.1, "radius": -1.0}, "radius is the largest 2-norm"),
    ],
)
def test_arguments_outside_their_range_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        required(mlp(), **arguments)


def test_a_layer_of_zeros_is_refused():
    net = mlp()
    nn.init.zeros_(net.classifier[2].weight)
    with pytest.raises(ValueError, match="no weight other than 0"):
        required(net, error=0.1)
