from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mpt
from mpt import backbones
from mpt.search.layers import ticket_layers


def test_a_layer_that_is_called_and_read_past_computes_with_its_ticket_in_both():
    class Peeking(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.other(self.fc(x)) + F.linear(x, self.fc.weight)

    net, x = mpt.convert(Peeking(), mpt.Biprop(prune=0.5), seed=0), torch.randn(3, 4)
    weight = net.fc.ticket_weight()
    assert torch.equal(net(x), F.linear(F.linear(x, weight), net.other.ticket_weight()) + F.linear(x, weight))


def test_a_transformer_layer_that_reads_weights_in_evaluation_only_computes_with_its_ticket():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.Linear(16, 3)

        def forward(self, x):
            return self.head(self.encoder(x).mean(1))

    x = torch.randn(3, 5, 16)
    net = mpt.convert(Encoder(), mpt.Biprop(prune=0.5), seed=0, example=x).eval()
    assert len(ticket_layers(net)) == 7  # four projections, two linear layers and the head
    with torch.no_grad():
        fast, dense = net(x), mpt.to_dense(net)(x)
    torch.testing.assert_close(fast, net(x))  # with gradients torch's fused kernel is off
    torch.testing.assert_close(fast, dense)
    net = mpt.convert(Encoder(), mpt.Biprop(prune=0.5), seed=0, dense=("encoder.*",), example=x)
    assert list(ticket_layers(net)) == ["head"]


def test_a_network_of_two_inputs_is_probed_with_a_tuple():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.unused = nn.Linear(4, 3), nn.Linear(5, 3), nn.Linear(2, 2)

        def forward(self, x, y):
            return self.left(x) + self.right(y)

    with pytest.raises(ValueError, match=r"^unused: converted, but never called"):
        mpt.convert(Two(), mpt.Biprop(prune=0.5), seed=0, example=(torch.ones(1, 4), torch.ones(1, 5)))


def test_the_probe_leaves_running_statistics_mode_and_generator_alone():
    backbone = backbones.cifar_resnet20(width=0.5).train()
    state = torch.random.get_rng_state()
    net = mpt.convert(backbone, mpt.Biprop(prune=0.5), seed=0)
    assert torch.equal(state, torch.random.get_rng_state())
    assert net.training
    assert net.layer1[0].bn1.training
    assert int(net.bn1.num_batches_tracked) == 0


def test_an_input_that_cannot_be_guessed_raises_a_warning():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(x["pixels"])

    with pytest.warns(UserWarning, match="could not guess an input"):
        mpt.convert(Odd(), mpt.Biprop(prune=0.5), seed=0)
