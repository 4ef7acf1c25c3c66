from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mpt
from mpt.search.layers import ticket_layers
from mpt.search.reading import attach_reading


class Reader(nn.Module):
    """Reads the weight of its first layer, and calls its second."""

    def __init__(self):
        super().__init__()
        self.read, self.called = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.called(F.linear(x, self.read.weight).relu())


class Unused(Reader):
    """Has a layer that matters for nothing."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(3, 3)


@pytest.mark.parametrize("gains", ["layer", "learned"])
def test_a_layer_whose_weight_is_read_is_searched(tmp_path, gains):
    x = torch.randn(5, 6)
    net = mpt.convert(nn.Sequential(Reader()), mpt.Biprop(prune=0.5, gains=gains), seed=0, example=x)
    assert net.conversion.reads == ("0.read",)
    net.train()(x).square().mean().backward()
    layers = ticket_layers(net)
    assert all(layer.scores.grad.abs().sum() > 0 for layer in layers.values())
    assert layers["0.read"].weight is layers["0.read"]._parameters["weight"]  # outside a forward the frozen weight

    net.eval()
    expected = F.linear(F.linear(x, layers["0.read"].ticket().ticket_weight).relu(), layers["0.called"].ticket_weight())
    assert torch.equal(net(x), expected)
    assert torch.equal(mpt.to_dense(net)(x), expected)
    assert torch.equal(copy.deepcopy(net)(x), expected)
    with mpt.frozen(net):
        assert torch.equal(net(x), expected)
    mpt.Ticket.from_network(net).save(tmp_path / "t.safetensors")
    ticket = mpt.Ticket.load(tmp_path / "t.safetensors")
    assert ticket.header["reads"] == ["0.read"]
    assert torch.equal(ticket.network(nn.Sequential(Reader()))(x), expected)


def test_a_layer_that_matters_for_nothing_is_still_refused():
    with pytest.raises(ValueError, match="unused: converted, but never called"):
        mpt.convert(Unused(), mpt.Biprop(prune=0.5), seed=0, example=torch.randn(5, 6))


def test_after_a_forward_that_fails_the_weight_is_the_frozen_one_again():
    net = mpt.convert(Reader(), mpt.Biprop(prune=0.5), seed=0, example=torch.randn(5, 6))
    with pytest.raises(RuntimeError):
        net(torch.randn(5, 7))
    assert isinstance(net.read.weight, nn.Parameter)


def test_a_ticket_that_names_no_layer_of_its_own_as_read_is_refused(tmp_path):
    net = mpt.convert(Reader(), mpt.Biprop(prune=0.5), seed=0, example=torch.randn(5, 6))
    ticket = mpt.Ticket.from_network(net)
    ticket.header["reads"] = ["nope"]
    with pytest.raises(ValueError, match="reads names a layer that it does not have"):
        ticket.save(tmp_path / "t.safetensors")


def test_hooks_come_back_off(mlp):
    net = mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=0)
    attach_reading(net, ["0"])
    dense = mpt.to_dense(net)
    assert not dense._forward_pre_hooks
    assert not dense._forward_hooks


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "swin", "swin_v2"])
def test_every_layer_of_torchvision_s_transformers_is_searched_and_read_back(tmp_path, name):
    from torchvision.models import SwinTransformer, VisionTransformer
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

    def build():
        torch.manual_seed(0)
        if name == "vit":
            return VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=10)
        more = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2} if name == "swin_v2" else {}
        return SwinTransformer([2, 2], 16, [2, 2], [2, 4], [4, 4], num_classes=10, stochastic_depth_prob=0.0, **more)

    x = torch.randn(4, 3, 32, 32)
    net = mpt.convert(build(), mpt.Biprop(prune=0.5), seed=0, example=x).train()
    layers = ticket_layers(net)
    assert any("q_proj" in layer or "qkv" in layer for layer in layers)
    net(x).square().mean().backward()
    assert all(layer.scores.grad.abs().sum() > 0 for layer in layers.values())
    net.eval()
    mpt.Ticket.from_network(net).save(tmp_path / "t.safetensors")
    back = mpt.Ticket.load(tmp_path / "t.safetensors").network(build())
    assert torch.equal(back(x), net(x))
    assert torch.equal(mpt.to_dense(net)(x), net(x))
