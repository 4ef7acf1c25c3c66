"""The kernel around unrolled code: bands of blocks, parts of inputs, tiles in turn."""

from __future__ import annotations

import re

import numpy as np
import pytest
from torch import nn

from mpt.engine import unrolled
from mpt.engine.code import Machine
from mpt.engine.fuse import fuse
from mpt.engine.program import program
from mpt.engine.trace import trace
from tests.engine.networks import assert_same, compiled, make_ternary


@pytest.mark.parametrize("band", [1, 30, 100, 528])  # of 150 outputs: of one block, of some, of all
@pytest.mark.parametrize("lanes", [None, 8])
def test_bands_of_any_size_compute_the_same(monkeypatch, tmp_path, band, lanes):
    monkeypatch.setattr(unrolled, "BAND", band)
    monkeypatch.setattr(unrolled, "CACHE", 4_000)
    layers = [nn.Conv2d(20, 150, 3, padding=1), nn.ReLU(), nn.Conv2d(150, 33, 3, padding=1, bias=False)]
    net = make_ternary(nn.Sequential(*layers), np.random.default_rng(0), prune=0.8)
    assert_same(compiled(net, (20, 10, 9), lanes=lanes, unroll=True), net, batches=(1, 3, 18))


@pytest.mark.parametrize("side", [2, 3, 4, 5, 16, 20])
def test_tiles_that_do_not_fill_a_turn_compute_the_same(monkeypatch, side):
    monkeypatch.setattr(unrolled, "CACHE", 2_000)
    layers = [nn.Conv2d(40, 40, 3, padding=1), nn.ReLU(), nn.Conv2d(40, 7, 3, padding=1)]
    net = make_ternary(nn.Sequential(*layers), np.random.default_rng(side), prune=0.6)
    assert_same(compiled(net, (40, side, side), unroll=True), net, batches=(1, 2, 5, 17))


@pytest.mark.parametrize("target", [("x86_64-linux-gnu", "x86-64-v4"), ("aarch64-linux-gnu", None), ("wasm32", None)])
def test_the_stack_holds_few_sums_so_that_small_threads_may_call(target):
    net = make_ternary(nn.Sequential(nn.Conv2d(200, 600, 3, padding=1)), np.random.default_rng(0), prune=0.9)
    made = program(fuse(trace(net, shape=(200, 6, 6))), machine=Machine.of(*target), unroll=True)
    assert any(block.continues for layer in made.layers for block in layer.blocks)
    found = re.findall(r"alloca (?:\[(\d+) x )?<(\d+) x ", made.text)
    assert found
    assert sum(4 * int(many or 1) * int(vector) for many, vector in found) <= 1024
