from __future__ import annotations

import pytest
import torch
from torch import nn

from mpt import backbones

SEARCHED = {  # with 10 classes: weights of the convolutions and linear layers, and the number of these layers
    "cifar_resnet18": (11_164_352, 21),
    "cifar_resnet34": (21_265_088, 37),
    "cifar_resnet50": (23_467_712, 54),
    "cifar_resnet20": (270_896, 22),
    "cifar_resnet32": (464_432, 34),
    "cifar_resnet44": (657_968, 46),
    "cifar_resnet56": (851_504, 58),
    "cifar_resnet110": (1_722_416, 112),
    "wide_resnet18_2": (24_868_032, 21),
    "wide_resnet34": (47_510_208, 37),
}


def layers(net):
    return [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


@pytest.mark.parametrize("name", SEARCHED)
def test_networks_have_the_published_number_of_weights(name):
    with torch.device("meta"):  # shapes only
        net = getattr(backbones, name)()
    assert (sum(m.weight.numel() for m in layers(net)), len(layers(net))) == SEARCHED[name]
    assert not any(m.bias is not None for m in layers(net))


def test_the_wide_resnets_for_imagenet_have_the_published_number_of_weights():
    with torch.device("meta"):
        narrow, wide = (
            backbones.wide_resnet34(num_classes=1000),
            backbones.torchvision(name="wide_resnet50_2", num_classes=1000),
        )
    assert sum(m.weight.numel() for m in layers(narrow)) == 48_270_528
    assert round(sum(m.weight.numel() for m in layers(wide)) / 1e6, 2) == 68.81


@pytest.mark.parametrize("name", [name for name in SEARCHED if name not in ("cifar_resnet110", "cifar_resnet34")])
@pytest.mark.parametrize("side", [1, 20])
def test_logits_of_a_batch_of_one_have_one_column_a_class(name, side):
    net = getattr(backbones, name)(width=0.0625, num_classes=7, in_channels=1).eval()
    assert net(torch.zeros(1, 1, side, side)).shape == (1, 7)
    assert backbones.build(net.origin).origin == net.origin


def test_a_basic_block_computes_the_formula_of_the_docstring():
    block = backbones.cifar_resnet20(width=0.25).eval().layer2[0]
    x = torch.randn(2, 4, 6, 6)
    out = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
    strided = nn.functional.conv2d(x, block.shortcut[0].weight, stride=2)
    torch.testing.assert_close(block(x.clone()), torch.relu(out + block.shortcut[1](strided)))
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))


def test_a_bottleneck_block_computes_the_formula_of_the_docstring():
    block = backbones.cifar_resnet50(width=0.0625).eval().layer2[0]
    x = torch.randn(2, 16, 6, 6)
    out = torch.relu(block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x))))))
    assert torch.equal(block(x.clone()), torch.relu(block.bn3(block.conv3(out)) + block.shortcut(x[..., ::2, ::2])))
    assert [c.kernel_size[0] for c in (block.conv1, block.conv2, block.conv3)] == [1, 3, 1]
    assert block.conv2.stride == (2, 2)


def test_a_preactivation_block_computes_the_formula_of_the_docstring():
    net = backbones.wide_resnet18_2(width=0.0625).eval()
    block, identity, x = net.layer2[0], net.layer1[0], torch.randn(2, 4, 6, 6)
    activated = torch.relu(block.bn1(x))
    out = block.conv2(torch.relu(block.bn2(block.conv1(activated))))
    assert torch.equal(block(x.clone()), out + block.shortcut(activated[..., ::2, ::2]))
    activated = torch.relu(identity.bn1(x))
    out = identity.conv2(torch.relu(identity.bn2(identity.conv1(activated))))
    assert torch.equal(identity(x.clone()), out + activated)
    assert net.bn1.num_features == net.fc.in_features == 48


def test_a_network_with_few_channels_trains_in_channels_last():
    net = backbones.cifar_resnet20(width=0.25).to(memory_format=torch.channels_last)
    images = torch.randn(32, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    for _ in range(3):
        net(images).square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters())


def test_width_multiplies_channels_but_not_classes():
    net = backbones.cifar_resnet18(width=0.5)
    assert (net.conv1.out_channels, net.fc.in_features, net.fc.out_features) == (32, 256, 10)
    with pytest.raises(ValueError, match="width multiplies the channels"):
        backbones.cifar_resnet20(width=0.05)
