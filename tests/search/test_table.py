from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

import mpt
from tests import reference
from tests.own_methods import PerChannel


def test_the_table_lists_shape_kept_gain_and_bits_of_every_layer(mlp):
    net = mpt.convert(mlp, mpt.Biprop(prune=0.5), seed=0)
    table = mpt.layer_table(net)
    first = table.layers[0]
    assert (first.name, first.shape, first.num_weights, first.num_kept) == ("0", (8, 6), 48, 24)
    assert first.gain == float(net[0].gain())
    assert first.bits == 48 + 24 + 32
    assert (table.num_weights, table.num_kept) == (72, 36)
    assert table.dropped == ("0.bias", "2.bias")
    assert "8x6" in str(table)


def test_real_weights_cost_32_bits_each(mlp):
    net = mpt.convert(mlp, mpt.EdgePopup(prune=0.5, init="kaiming_normal"), seed=0)
    assert mpt.layer_table(net).layers[0].bits == 48 + 24 * 32


def test_gains_of_channels_cost_32_bits_each_and_show_their_mean():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5))
    net = mpt.convert(backbone, PerChannel(prune=0.5), seed=0, example=torch.ones(1, 3, 4, 4))
    conv, linear = mpt.layer_table(net).layers
    assert (conv.bits, linear.bits) == (108 + 54 + 4 * 32, 80 + 40 + 5 * 32)
    weight, mask = net[0].weight.detach().numpy(), net[0].mask().numpy()
    assert conv.gain == pytest.approx(reference.channel_gains(weight, mask).mean(), rel=1e-6)
    assert f"{conv.gain:.4g}" in str(mpt.layer_table(net))


def test_every_parameter_of_the_backbone_is_in_the_table():
    backbone = torchvision.models.shufflenet_v2_x0_5(num_classes=10)
    net = mpt.convert(backbone, mpt.Biprop(prune=0.5), seed=0, learn_batchnorm=True, dense=("fc",))
    table = mpt.layer_table(net)
    listed = (
        {f"{row.name}.weight" for row in table.layers} | {row.name for row in table.parameters} | set(table.dropped)
    )
    assert listed == {name for name, _ in backbone.named_parameters()}
    states = {row.name: row.state for row in table.parameters}
    assert states["conv1.1.weight"] == "trained"
    assert states["fc.weight"] == states["fc.bias"] == "frozen"


def test_layers_with_a_fraction_of_their_own_say_so_in_table_and_ticket(mlp, tmp_path):
    method = mpt.Biprop(prune=0.5, prune_layers={"2": 0.25})
    net = mpt.convert(mlp, method, seed=0)
    table = mpt.layer_table(net)
    assert [(row.num_kept, row.prune) for row in table.layers] == [(24, None), (18, 0.25)]
    assert [line.endswith("searched, prune 0.25") for line in str(table).splitlines()[1:3]] == [False, True]
    ticket = mpt.Ticket.from_network(net)
    ticket.save(tmp_path / "t")
    read = mpt.Ticket.load(tmp_path / "t")
    assert read.header["method"]["prune_layers"] == {"2": 0.25}
    assert read.network(mlp).conversion.method == method
    assert [row.prune for row in read.table().layers] == [None, 0.25]
