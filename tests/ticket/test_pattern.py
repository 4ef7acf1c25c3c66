from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import mpt
from mpt.ticket.coding import entropy
from mpt.ticket.compact import compact
from mpt.ticket.controls import control
from mpt.ticket.format import encode
from mpt.ticket.pattern import drawn_pattern, searched_part

METHOD = mpt.PartlyFrozen(prune=0.8, pruned=0.7, locked=0.4)


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 60), nn.ReLU(), nn.Linear(60, 10))


@pytest.fixture
def net(backbone):
    net = mpt.convert(backbone, METHOD, seed=5, example=torch.zeros(2, 40)).eval()
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.scores.copy_(torch.randn_like(layer.scores))
    return net


def test_a_file_holds_the_searched_part_of_a_mask_alone_and_reads_back(tmp_path, net, backbone):
    ticket = mpt.Ticket.from_network(net)
    ticket.save(tmp_path / "t.safetensors")
    again = mpt.Ticket.load(tmp_path / "t.safetensors")
    assert again.digest == ticket.digest
    x = torch.randn(5, 40)
    assert torch.equal(again.network(backbone)(x), net(x))
    plain = mpt.Ticket.from_network(mpt.convert(backbone, mpt.Biprop(prune=0.8), seed=5, example=torch.zeros(2, 40)))
    expected = 0.0
    for layer, other in zip(ticket.layers, plain.layers, strict=True):
        n, k = layer.num_weights, layer.kept
        open_, kept = searched_part(layer, ticket.header)
        assert (open_, kept) == (n - int(0.7 * (n - k)) - int(0.4 * k), k - int(0.4 * k))
        expected += entropy(open_, kept) + 32
        assert other.kept == k
    assert ticket.entropy_bits == pytest.approx(expected)
    assert ticket.entropy_bits < 0.6 * plain.entropy_bits
    masks, whole = (8 * compact(t.header, t.tensors)["masks"].numel() for t in (ticket, plain))
    assert masks < ticket.entropy_bits + 64
    assert masks < 0.5 * whole
    ticket.save(tmp_path / "two.safetensors", format=2)  # whole masks, for older readers
    assert mpt.Ticket.load(tmp_path / "two.safetensors").digest == ticket.digest


def test_a_mask_that_differs_from_the_pattern_is_stored_whole(tmp_path, net):
    ticket = mpt.Ticket.from_network(net)
    shuffled = control(ticket, "shuffled_mask")
    assert searched_part(shuffled.layers[0], shuffled.header) is None
    assert shuffled.entropy_bits > 1.5 * ticket.entropy_bits
    shuffled.save(tmp_path / "s.safetensors")
    assert mpt.Ticket.load(tmp_path / "s.safetensors").digest == shuffled.digest


def test_a_backbone_s_own_weights_have_no_seed_that_draws_the_pattern(tmp_path, backbone):
    ticket = mpt.Ticket.from_network(mpt.convert(backbone, METHOD, seed=None, example=torch.zeros(2, 40)))
    assert searched_part(ticket.layers[0], ticket.header) is None
    ticket.save(tmp_path / "n.safetensors")
    assert mpt.Ticket.load(tmp_path / "n.safetensors").digest == ticket.digest


@pytest.mark.parametrize("pattern", [[0.7], [0.7, 1.0], [0.7, -0.1], "0.7", [0.7, float("nan")]])
def test_a_header_with_an_impossible_pattern_is_refused(net, pattern):
    ticket = mpt.Ticket.from_network(net)
    with pytest.raises(ValueError, match="pattern"):
        encode(ticket.header | {"pattern": pattern}, ticket.tensors)


def test_prune_of_a_layer_decides_its_pattern(net):
    header = mpt.Ticket.from_network(net).header
    header = header | {"method": header["method"] | {"prune_layers": {"a": 0.5}}}
    counts = [np.bincount(drawn_pattern(header, layer=name, shape=(10, 10)) + 1) for name in ("a", "b")]
    assert [count.tolist() for count in counts] == [[35, 45, 20], [56, 36, 8]]
