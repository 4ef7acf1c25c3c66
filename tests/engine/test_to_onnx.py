"""ONNX files against torch, run by onnxruntime: every kind of layer, every type of weights."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mpt
from mpt.engine import to_onnx as module
from mpt.engine.fuse import fuse
from mpt.engine.to_onnx import BITS, to_onnx
from mpt.engine.trace import trace
from tests.engine import networks
from tests.engine.networks import make_ternary, ticket, with_statistics
from tests.engine.test_trace import Function

B = mpt.backbones
onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
BOUND = 1e-5  # of the largest logit


def session(content):
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    return runtime.InferenceSession(content, providers=["CPUExecutionProvider"])


def assert_same(content, net, shape, *, batches=(1, 3, 16)):
    """The file gives the logits of ``net``, computed by torch in float64, within the bound."""
    run, exact = session(content), net.double().eval()
    for n in batches:
        images = torch.randn(n, *shape, generator=torch.Generator().manual_seed(n))
        with torch.no_grad():
            wanted = exact(images.double()).numpy()
        (got,) = run.run(["logits"], {"images": images.numpy()})
        assert got.shape == wanted.shape
        assert abs(got - wanted).max() <= BOUND * abs(wanted).max(), n
    net.float()


def content_of(net, shape, monkeypatch, *, weights="int8"):
    """The file of a network that is no ticket."""
    monkeypatch.setattr(module, "operations", lambda *_, **__: fuse(trace(net, shape=shape)))
    return to_onnx(ticket(B.mlp(hidden=(2,), image_size=2)), weights=weights)


@pytest.mark.slow
@pytest.mark.parametrize("weights", BITS)
@pytest.mark.parametrize("binary", [False, True], ids=["1/32", "1/1"])
def test_logits_are_those_of_torch(binary, weights):
    found = ticket(B.conv4(width=0.1, image_size=16), binary_activations=binary, learn_batchnorm=binary)
    assert_same(to_onnx(found, weights=weights), mpt.to_dense(found.network()), (3, 16, 16))


DEEP = {
    "cifar_resnet20": lambda: B.cifar_resnet20(width=0.25),
    "vgg_small": lambda: B.vgg_small(width=0.1, relus="all"),
    "torchvision": lambda: B.torchvision(name="resnet18"),
}


@pytest.mark.parametrize("binary", [False, True], ids=["1/32", "1/1"])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "torchvision")) for n in DEEP])
def test_logits_of_deep_networks_are_those_of_torch(name, binary):
    found = ticket(DEEP[name](), binary_activations=binary, learn_batchnorm=binary)
    assert_same(to_onnx(found, weights="int2", image_size=32), mpt.to_dense(found.network()), (3, 32, 32), batches=(2,))


@pytest.mark.parametrize("seed", range(8))
def test_logits_of_random_networks_are_those_of_torch(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    net = with_statistics(make_ternary(networks.Random(rng), rng, prune=float(rng.choice([0.0, 0.5, 0.9]))))
    shape = (net.channels, net.side, net.side)
    assert_same(content_of(net, shape, monkeypatch, weights=str(rng.choice([*BITS]))), net, shape)


@pytest.mark.slow
@pytest.mark.parametrize("side", [1, 2, 7, 8])
@pytest.mark.parametrize(
    "net",
    [
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.MaxPool2d(2, stride=1, padding=1, ceil_mode=True),
        nn.AvgPool2d(3, stride=2, padding=1),
        nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True),
        nn.AdaptiveAvgPool2d((11, None)),
        nn.AdaptiveAvgPool2d(3),
        nn.AdaptiveMaxPool2d((3, 1)),
        Function(lambda x: x[:, :, ::2, -1:]),
        Function(lambda x: torch.cat([F.relu(x), x], dim=1) + torch.cat([x, x.relu()], dim=1)),
        Function(lambda x: x.mean([2, 3])),
        nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.ReLU()),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 6, 3, padding=1)),
        nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.ReLU(), nn.Conv2d(3, 6, 1), nn.MaxPool2d(1), nn.Flatten()),
    ],
    ids=lambda net: str(net).replace("\n", ""),
)
def test_a_layer_is_what_it_is_in_torch(net, side, monkeypatch):
    with torch.no_grad():
        many = net.eval()(torch.zeros(1, 3, side, side)).numel()
    whole = nn.Sequential(net, nn.Flatten(), nn.Linear(many, 5))
    assert_same(content_of(whole, (3, side, side), monkeypatch), whole, (3, side, side), batches=(2,))


def test_a_batch_norm_scale_below_nought_is_in_the_weights():
    found = ticket(B.cifar_resnet20(width=0.25))
    scales = [
        onnx.numpy_helper.to_array(constant)
        for constant in onnx.load_from_string(to_onnx(found, image_size=8)).graph.initializer
        if constant.name.endswith("scale")
    ]
    assert scales
    assert all((scale >= 0).all() for scale in scales)


def test_layers_left_dense_stay_float32():
    found = ticket(B.conv2(width=0.1, image_size=8), dense=("classifier.4",))
    content = to_onnx(found, weights="int4")
    assert_same(content, mpt.to_dense(found.network()), (3, 8, 8))
    kinds = {constant.name: constant.data_type for constant in onnx.load_from_string(content).graph.initializer}
    assert kinds["classifier.4.weight"] == onnx.TensorProto.FLOAT
    assert kinds["classifier.2.weight"] == onnx.TensorProto.INT4


def test_a_weight_takes_its_bits_and_tied_ones_are_there_once(monkeypatch):
    found = ticket(B.conv2(width=0.2, image_size=8))
    sizes = {weights: len(to_onnx(found, weights=weights)) for weights in BITS}
    for weights, bits in BITS.items():
        assert 0 <= sizes[weights] - found.num_weights * bits / 8 <= 6000, weights
    layer = nn.Linear(60, 60)
    tied = nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer, nn.Linear(60, 3))
    make_ternary(tied, np.random.default_rng(0), prune=0.5)
    content = content_of(tied, (60, 1, 1), monkeypatch)
    assert_same(content, tied, (60, 1, 1))
    assert len(content) < 2 * 60 * 60


def test_the_file_says_which_ticket_it_is_and_what_its_classes_are():
    backbone = mpt.convert(B.mlp(hidden=(4,), image_size=2), mpt.Biprop(prune=0.5), seed=0)
    found = mpt.Ticket.from_network(backbone, class_names=[*"abcdefghiö"])
    model = onnx.load_from_string(to_onnx(found))
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert about["ticket"] == found.digest
    assert json.loads(about["class_names"])[-1] == "ö"
    assert model.producer_name == "multiprize"


def test_without_the_extra_the_sentence_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r"pip install 'multiprize\[onnx\]'"):
        to_onnx(ticket(B.mlp(hidden=(4,), image_size=2)))


def test_another_type_of_weights_is_refused():
    with pytest.raises(ValueError, match="one of int8, int4, int2, float, got int3"):
        to_onnx(ticket(B.mlp(hidden=(4,), image_size=2)), weights="int3")
