"""Fewer operations, the same result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import mpt
from mpt.engine.fuse import fuse
from mpt.engine.trace import trace
from tests.engine import interpreter, networks
from tests.engine.networks import make_ternary, ticket, with_statistics

B = mpt.backbones


def operations(net, shape):
    return fuse(trace(net, shape=shape))


@pytest.mark.parametrize("seed", range(12))
def test_fused_operations_compute_the_same(seed):
    rng = np.random.default_rng(seed)
    net = with_statistics(make_ternary(networks.Random(rng), rng, prune=0.6))
    shape = (net.channels, net.side, net.side)
    images = rng.normal(size=(2, *shape))
    plain = interpreter.run(trace(net, shape=shape), images)
    np.testing.assert_allclose(interpreter.run(operations(net, shape), images), plain, rtol=1e-4, atol=1e-4)


def test_a_residual_network_becomes_convolutions():
    nodes = operations(ticket(B.cifar_resnet18(width=0.1)).network(), (3, 16, 16))
    assert {node.kind for node in nodes} <= {"input", "conv", "pool", "flatten"}
    assert sum(len(node.inputs) == 2 for node in nodes) == 8  # one residual a block


def test_one_gain_an_output_counts_as_signs_and_real_weights_do_not():
    net = nn.Sequential(nn.Conv2d(2, 3, 1, bias=False), nn.Flatten(), nn.Linear(12, 2))
    with torch.no_grad():
        net[0].weight[:] = torch.tensor([[0.5, -0.5], [0.0, 0.2], [0.0, 0.0]]).view(3, 2, 1, 1)
    first, second = (node.conv for node in operations(net, (2, 2, 2)) if node.conv is not None)
    np.testing.assert_array_equal(first.signs.reshape(3, 2), [[1, -1], [0, 1], [0, 0]])
    np.testing.assert_allclose(first.scale, [0.5, 0.2, 0])
    assert second.signs is None


@pytest.mark.parametrize("pool", [nn.Identity(), nn.MaxPool2d(2)])
def test_a_sign_of_signs_is_no_threshold_of_the_sums(pool):
    body = [mpt.BinaryActivation(), nn.Conv2d(3, 20, 3, bias=False), nn.BatchNorm2d(20), mpt.BinaryActivation(), pool]
    net = nn.Sequential(*body, nn.BatchNorm2d(20), mpt.BinaryActivation())
    make_ternary(with_statistics(net), np.random.default_rng(0), prune=0.3)
    images = np.random.default_rng(1).normal(size=(4, 3, 6, 6))
    with torch.no_grad():
        wanted = net.double()(torch.from_numpy(images)).numpy()
    np.testing.assert_array_equal(interpreter.run(operations(net.float(), (3, 6, 6)), images), wanted)


def test_thresholds_give_the_signs_of_batch_norm_at_every_sum():
    conv, norm = nn.Conv2d(3, 8, 3, bias=False), with_statistics(nn.BatchNorm2d(8)).eval()
    net = make_ternary(
        nn.Sequential(mpt.BinaryActivation(), conv, norm, mpt.BinaryActivation()), np.random.default_rng(0), prune=0.3
    )
    with torch.no_grad():
        norm.weight[3], norm.bias[3] = 0.0, -1.0  # a constant
        norm.weight[4], norm.bias[4] = 0.0, 0.0
    nodes = operations(net, (3, 5, 5))
    fused = nodes[2].conv
    assert [node.kind for node in nodes] == ["input", "sign", "conv", "real"]
    assert {bool(flip) for flip in fused.flip} == {False, True}
    sums = torch.arange(-27, 28)
    gain = conv.weight.detach().abs().amax(dim=(1, 2, 3))
    with torch.no_grad():
        wanted = norm((sums[:, None] * gain)[:, :, None, None])[:, :, 0, 0].numpy() >= 0
    got = (sums.numpy()[:, None] >= fused.threshold) != fused.flip
    kept = np.abs(fused.signs).reshape(8, -1).sum(1)
    possible = np.abs(sums.numpy())[:, None] <= kept
    np.testing.assert_array_equal(got[possible], wanted[possible])


@pytest.mark.parametrize(
    "build", [lambda: B.conv4(width=0.1, image_size=8), lambda: B.vgg_small(width=0.05, image_size=8, relus="all")]
)
@pytest.mark.parametrize("learn_batchnorm", [False, True])
def test_binary_networks_compute_the_same(build, learn_batchnorm):
    net = ticket(build(), binary_activations=True, learn_batchnorm=learn_batchnorm).network()
    images = np.random.default_rng(0).normal(size=(4, 3, 8, 8))
    with torch.no_grad():
        wanted = mpt.to_dense(net).double()(torch.from_numpy(images)).numpy()
    nodes = operations(net, (3, 8, 8))
    assert sum(node.conv is not None and node.conv.threshold is not None for node in nodes) >= 4
    np.testing.assert_allclose(
        interpreter.run(nodes, images)[:, :, 0, 0], wanted, rtol=1e-5, atol=1e-5 * abs(wanted).max()
    )
