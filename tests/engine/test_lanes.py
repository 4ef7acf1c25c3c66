"""MPT-1/1: sums of signs, exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import mpt
from mpt.engine import lanes
from mpt.engine.code import Machine
from mpt.engine.engine import Run
from mpt.engine.fuse import fuse
from mpt.engine.recipe import make
from mpt.engine.trace import trace
from tests.engine import interpreter
from tests.engine.networks import BATCHES, assert_same, compiled, make_ternary, ticket, with_statistics

B = mpt.backbones
BACKBONES = {
    "conv4": lambda: B.conv4(width=0.1),
    "vgg_small": lambda: B.vgg_small(width=0.1, relus="all"),
    "cifar_resnet20": lambda: B.cifar_resnet20(width=0.25),
}


@pytest.mark.parametrize("unroll", [False, True], ids=["lists", "unrolled"])
@pytest.mark.parametrize("width", [8, None])
@pytest.mark.parametrize("name", ["conv4", *(pytest.param(n, marks=pytest.mark.slow) for n in list(BACKBONES)[1:])])
def test_logits_are_those_of_torch(name, width, unroll):
    net = ticket(BACKBONES[name](), binary_activations=True, learn_batchnorm=True).network()
    assert_same(compiled(net, (3, 32, 32), lanes=width, unroll=unroll), mpt.to_dense(net))


@pytest.mark.parametrize("unroll", [False, True], ids=["lists", "unrolled"])
@pytest.mark.parametrize("width", [4, 8, None])
@pytest.mark.parametrize("side", [2, 5, 17])
def test_signs_are_exact_to_the_last(side, width, unroll):
    rng = np.random.default_rng(side)
    body = [
        mpt.BinaryActivation(),
        nn.Conv2d(40, 50, 3, padding=1, bias=False),
        nn.BatchNorm2d(50),
        mpt.BinaryActivation(),
    ]
    body += [nn.Conv2d(50, 30, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(30), mpt.BinaryActivation()]
    net = make_ternary(with_statistics(nn.Sequential(*body)), rng, prune=0.1)  # over 127 weights an output
    nodes = fuse(trace(net, shape=(40, side, side)))
    machine = Machine.host(lanes=width)
    run = Run(*make(nodes, machine=machine, unroll=unroll), machine=machine)
    for n in BATCHES:
        images = rng.normal(size=(n, 40, side, side)).astype(np.float32)
        np.testing.assert_array_equal(run(images).reshape(n, *nodes[-1].shape), interpreter.run(nodes, images))


@pytest.mark.parametrize("unroll", [False, True], ids=["lists", "unrolled"])
def test_a_sum_of_nought_is_plus_one_without_statistics(unroll):
    net = mpt.convert(B.conv4(width=0.2, image_size=16), mpt.Biprop(prune=0.5), seed=0, binary_activations=True)
    net = mpt.Ticket.from_network(net).network()  # batch-norm as it starts: every sum of 0 is a tie
    assert_same(compiled(net, (3, 16, 16), unroll=unroll), mpt.to_dense(net))


def test_parts_have_at_most_as_many_weights_as_a_byte_holds():
    rng = np.random.default_rng(0)
    taps = np.stack([np.sort(rng.integers(0, 999, 2000)), rng.integers(0, 3, 2000)], axis=1)
    runs = lanes.parts(taps, 3)
    assert [start for start, _ in runs] == [0, *(stop for _, stop in runs[:-1])]
    assert runs[-1][1] == 2000
    assert all(np.bincount(taps[start:stop, 1]).max() <= 127 for start, stop in runs)
    assert lanes.parts(taps[:0], 3) == [(0, 0)]
    assert torch.iinfo(torch.int8).max == 127


@pytest.mark.parametrize("unroll", [False, True], ids=["lists", "unrolled"])
def test_signs_are_exact_where_no_output_keeps_the_first_channels(unroll):
    body = [mpt.BinaryActivation(), nn.Conv2d(40, 20, 3, padding=1, bias=False), nn.BatchNorm2d(20)]
    net = make_ternary(nn.Sequential(*body, mpt.BinaryActivation()), np.random.default_rng(0), prune=0.9)
    net[1].weight.data[:, :7] = 0
    nodes, machine = fuse(trace(net, shape=(40, 8, 8))), Machine.host()
    run = Run(*make(nodes, machine=machine, unroll=unroll), machine=machine)
    images = np.random.default_rng(1).normal(size=(3, 40, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(run(images).reshape(3, *nodes[-1].shape), interpreter.run(nodes, images))
