from __future__ import annotations

import pytest
import torch

import mpt
from mpt import backbones
from mpt.backbones import zoo
from mpt.search.layers import ticket_layers

PASSING = (
    "alexnet",
    "densenet121",
    "mnasnet0_5",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
)
SLOW = (
    "efficientnet_b0",
    "convnext_tiny",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    "vgg11_bn",
)
QUICK = ("mobilenet_v3_small", "regnet_y_400mf")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in (*PASSING, *SLOW)]
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchvision_classifiers_are_searched_and_come_back_from_a_ticket(name):
    net = mpt.convert(backbones.torchvision(name=name, num_classes=5), mpt.Biprop(prune=0.5), seed=0)
    side = {"inception_v3": 96, "maxvit_t": 224}.get(name, 64)
    assert len(ticket_layers(net)) >= 8
    logits = net.eval()(torch.zeros(1, 3, side, side))
    assert logits.shape == (1, 5)
    assert torch.equal(mpt.Ticket.from_network(net).network()(torch.zeros(1, 3, side, side)), logits)


def test_images_with_another_number_of_channels_get_their_own_stem():
    net = backbones.torchvision(name="resnet18", num_classes=5, in_channels=1)
    assert net.conv1.weight.shape == (64, 1, 7, 7)
    assert net(torch.zeros(2, 1, 32, 32)).shape == (2, 5)


def test_a_misspelt_classifier_is_refused_with_similar_names():
    with pytest.raises(ValueError, match=r"no classifier 'resnet19'.*resnet18"):
        backbones.torchvision(name="resnet19")


def test_a_name_is_checked_without_building_a_network():
    zoo.check_name("mpt.backbones.torchvision", "resnet18")
    zoo.check_name("mine.build", "resnet19")
    with pytest.raises(ValueError, match=r"no classifier 'resnet19'.*resnet18"):
        zoo.check_name("mpt.backbones.torchvision", "resnet19")


@pytest.mark.slow
def test_timm_models_are_backbones_too():
    net = mpt.convert(backbones.timm(name="resnet10t", num_classes=5, in_channels=1), mpt.Biprop(prune=0.5), seed=0)
    assert net.eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 5)
    with pytest.raises(ValueError, match=r"timm has no model 'resnet10x'.*resnet10t"):
        backbones.timm(name="resnet10x")


@pytest.mark.parametrize(
    "net",
    [lambda: backbones.conv2(width=0.5, image_size=8), lambda: backbones.torchvision(name="resnet18", num_classes=3)],
)
def test_a_backbone_is_rebuilt_from_its_origin(net):
    backbone, rebuilt = net(), backbones.build(net().origin)
    assert [tuple(p.shape) for p in backbone.parameters()] == [tuple(p.shape) for p in rebuilt.parameters()]
    assert rebuilt.origin == backbone.origin


@pytest.mark.parametrize("origin", [{"target": "os.system", "arguments": {}}, {"target": None}, {}])
def test_only_our_own_backbones_are_built_from_an_origin(origin):
    with pytest.raises(ValueError, match="not one of mpt's own"):
        backbones.build(origin)
