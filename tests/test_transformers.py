"""Tickets in vision transformers, as their libraries build them: the search learns, in every layer, and reads back."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mpt
from mpt.search.layers import ticket_layers

pytestmark = pytest.mark.slow
SIZE, CLASSES = 32, 10


def torchvision_vit():
    from torchvision.models import VisionTransformer

    return VisionTransformer(SIZE, 8, num_layers=2, num_heads=2, hidden_dim=48, mlp_dim=96, num_classes=CLASSES)


def timm_vit():
    timm = pytest.importorskip("timm")
    return timm.models.VisionTransformer(SIZE, 8, embed_dim=48, depth=2, num_heads=2, mlp_ratio=2, num_classes=CLASSES)


def torchvision_swin():
    from torchvision.models import SwinTransformer

    return SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=CLASSES)


@pytest.fixture(scope="module")
def pictures():
    """The digits as colour pictures of 32x32 pixels."""
    digits = mpt.data.load("digits", image_size=SIZE)
    batches = [*mpt.data.Loader(digits.train, data=digits, batch=64, train=True)]
    return [(batch.images.expand(-1, 3, -1, -1).contiguous(), batch.labels) for batch in batches]


@pytest.mark.parametrize("build", [torchvision_vit, torchvision_swin, timm_vit])
def test_a_search_in_a_vision_transformer_learns_in_every_layer_and_reads_back(tmp_path, build, pictures):
    torch.manual_seed(0)
    backbone = build()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = mpt.convert(copy.deepcopy(backbone), mpt.Biprop(prune=0.5), example=pictures[0][0][:4]).train()
    layers = ticket_layers(net)
    assert len(layers) >= 2 + 2 * 4  # patches, head, and four in each block
    before = {name: layer.scores.detach().clone() for name, layer in layers.items()}
    masks = {name: layer.mask() for name, layer in layers.items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    losses = []
    for step in range(300):
        images, labels = pictures[step % len(pictures)]
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    first, last = sum(losses[:20]) / 20, sum(losses[-20:]) / 20
    assert last < 0.9 * first, (first, last)
    for name, layer in layers.items():
        assert not torch.equal(layer.scores, before[name]), name
        assert not torch.equal(layer.mask(), masks[name]), name

    net.eval()
    mpt.Ticket.from_network(net).save(tmp_path / "vit.safetensors")
    again = mpt.Ticket.load(tmp_path / "vit.safetensors").network(backbone)
    images = pictures[0][0]
    with torch.no_grad():
        assert torch.equal(again(images), net(images))
    dense = mpt.to_dense(net)
    assert not any(isinstance(module, nn.MultiheadAttention) for module in dense.modules())
    with torch.no_grad():
        assert torch.equal(dense(images), net(images))
