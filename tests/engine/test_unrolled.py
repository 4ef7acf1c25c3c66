"""Unrolled code: what is written for which weight."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import mpt
from mpt.engine import objects
from mpt.engine.code import Machine
from mpt.engine.fuse import fuse
from mpt.engine.layout import Copy
from mpt.engine.plan import plan
from mpt.engine.program import program
from mpt.engine.trace import trace
from mpt.engine.unrolled import CACHE, PART, code, text, unrolled
from tests.engine.networks import assert_same, compiled, make_ternary, ticket


def step_of(net, shape, machine):
    return plan(fuse(trace(net, shape=shape)), lanes=machine.lanes).first[-1]


def test_each_kept_weight_is_one_addition_or_subtraction_and_each_vector_is_loaded_once():
    machine = Machine.host(lanes=4)
    net = make_ternary(nn.Sequential(nn.Conv2d(5, 40, 3, padding=1, bias=False)), np.random.default_rng(0), prune=0.6)
    layer = unrolled(step_of(net, (5, 6, 6), machine), "block", machine=machine, kind="<4 x float>")
    kept = int((net[0].weight != 0).sum())
    lines = text(layer).splitlines()
    operations = sum("=fadd " in line or "=fsub " in line for line in lines)
    first_plus = 40 - sum("%n,%x" in line for line in lines)  # a sum that begins with +x is x itself
    assert len(layer.signs) == kept
    assert operations == kept - first_plus
    for block in layer.blocks:
        own = layer.taps[block.start : block.stop, 0]
        assert (np.diff(own) >= 0).all()
    loads = sum("load <4 x float>,ptr %g" in line for line in lines)
    assert loads == sum(len(np.unique(layer.taps[b.start : b.stop, 0])) for b in layer.blocks)


def test_the_digest_follows_every_weight():
    machine = Machine.host(lanes=4)
    net = make_ternary(nn.Sequential(nn.Conv2d(3, 9, 3, bias=False)), np.random.default_rng(0), prune=0.5)

    def key():
        return unrolled(step_of(net, (3, 6, 6), machine), "block", machine=machine, kind="<4 x float>").key

    before = key()
    assert key() == before
    place = net[0].weight[4].nonzero()[0]
    net[0].weight.data[4][tuple(place)] *= -1
    assert key() != before


@pytest.mark.parametrize(("side", "images"), [(16, 1), (4, 4)])
def test_what_some_tiles_read_in_a_part_stays_in_the_innermost_cache(side, images):
    machine, channels = Machine.host(lanes=4), 256
    net = make_ternary(nn.Sequential(nn.Conv2d(channels, 70, 3, padding=1)), np.random.default_rng(0), prune=0.9)
    layer = unrolled(step_of(net, (channels, side, side), machine), "block", machine=machine, kind="<4 x float>")
    groups = -(-70 // machine.sums)
    parts = len(layer.blocks) // groups
    assert layer.starts.tolist() == [0, len(layer.blocks)]
    assert parts > 1
    assert layer.tiles > 1
    last = -1
    for part in range(parts):
        own = layer.blocks[part * groups : (part + 1) * groups]
        taps = layer.taps[own[0].start : own[-1].stop, 0]
        assert taps.min() > last  # all blocks are cut at the same inputs
        last = taps.max()
        assert len(np.unique(taps // 64)) * 64 <= 1.1 * CACHE
        assert [block.continues for block in own] == [part > 0] * groups


def test_groups_of_a_convolution_have_parts_of_their_own():
    net = make_ternary(
        nn.Sequential(nn.Conv2d(80, 120, 3, padding=1, groups=2, bias=False)), np.random.default_rng(0), prune=0.5
    )
    machine = Machine.host()
    layer = unrolled(step_of(net, (80, 8, 8), machine), "block", machine=machine, kind="<4 x float>")
    assert layer.band == 1
    assert len(layer.starts) == -(-120 // machine.sums) + 1
    assert_same(compiled(net, (80, 8, 8), unroll=True), net, batches=(1, 5))


@pytest.mark.parametrize(("side", "batches"), [(4, (1, 9)), (8, (1, 5))])
def test_a_block_in_parts_computes_the_same(side, batches):
    net = make_ternary(nn.Sequential(nn.Conv2d(120, 40, 3, padding=1, bias=False)), np.random.default_rng(0), prune=0.7)
    machine = Machine.host()
    layer = unrolled(step_of(net, (120, side, side), machine), "block", machine=machine, kind="<4 x float>")
    assert sum(block.continues for block in layer.blocks) >= 2
    assert all(layer.size(block) <= 1.1 * PART for block in layer.blocks)
    assert_same(compiled(net, (120, side, side), unroll=True), net, batches=batches)


@pytest.mark.skipif(not Machine.host().encoded, reason="LLVM makes unrolled code here")
@pytest.mark.parametrize("lanes", [8, 16])
def test_amds_processors_fetch_each_line_and_fuse_additions_with_avx512(lanes):
    machine, about = Machine.host(lanes=lanes), Path("/proc/cpuinfo").read_text()
    is_zen = "AuthenticAMD" in about and int(re.search(r"cpu family\s*: (\d+)", about)[1]) >= 23
    assert machine.space == (64 if is_zen else 96)
    assert machine.fused == (is_zen and machine.lanes == 16)
    assert machine.sums + machine.fused == (31 if machine.lanes == 16 else 15)


def test_offsets_are_short_with_avx512():
    machine = Machine.of("x86_64-linux-gnu", "x86-64-v4")
    net = make_ternary(nn.Sequential(nn.Conv2d(256, 28, 3, padding=1, bias=False)), np.random.default_rng(0), prune=0.9)
    layer = unrolled(step_of(net, (256, 8, 8), machine), "block", machine=machine, kind="<16 x float>")
    short, long = (len(objects.straight(text(x), machine)) for x in (layer, dataclasses.replace(layer, window=0)))
    assert short <= 8.5 * len(layer.signs) + 2048
    assert short < 0.92 * long


def test_vectors_that_begin_anew_in_each_row_need_no_copies():
    net = make_ternary(
        nn.Sequential(*[nn.Conv2d(6, 6, 3, padding=1) for _ in range(3)]), np.random.default_rng(0), prune=0.5
    )
    nodes = fuse(trace(net, shape=(6, 16, 16)))
    padded, shifted = ([type(s) for s in plan(nodes, lanes=8, padded=p).first].count(Copy) for p in (True, False))
    assert padded == 1  # of the images
    assert shifted == 3 + 2 * 2  # of the images, and two for each value between


@pytest.mark.parametrize(
    ("backbone", "prune"), [("conv6", 0.8), pytest.param("cifar_resnet18", 0.95, marks=pytest.mark.slow)]
)
def test_memory_is_at_most_ten_bytes_a_kept_weight(backbone, prune):
    machine = Machine.host()
    if not machine.encoded:
        pytest.skip("LLVM makes unrolled code here")
    found = ticket(getattr(mpt.backbones, backbone)(), prune=prune)
    made = program(fuse(trace(found.network(), shape=(3, 32, 32))), machine=machine, unroll=True)
    size = sum(len(own) for layer in made.layers for _, own in code(layer))
    assert size + len(made.data) <= 10 * found.num_kept + 64 * 1024
    lists = program(fuse(trace(found.network(), shape=(3, 32, 32))), machine=machine)
    assert len(lists.data) <= 4.5 * found.num_kept + 64 * 1024
