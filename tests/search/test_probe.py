from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import mpt
from mpt.search.layers import ticket_layers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "refused", "dense"),
    [
        ("vit_b_32", {"image_size": 32}, r"encoder_layer_0\.self_attention\.out_proj", ("*.out_proj",)),
        ("swin_t", {}, r"features\.1\.0\.attn\.qkv", ("*.qkv", "*.proj")),
    ],
)
def test_attention_that_takes_the_weight_directly_is_refused_by_name(name, options, refused, dense):
    backbone = torchvision.models.get_model(name, num_classes=10, **options)
    with pytest.raises(ValueError, match=refused):
        mpt.convert(backbone, mpt.Biprop(prune=0.5), seed=0)
    assert len(ticket_layers(mpt.convert(backbone, mpt.Biprop(prune=0.5), seed=0, dense=dense))) > 10


def test_a_layer_that_is_called_and_read_past_is_refused_by_name():
    class Peeking(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.honest = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.honest(self.fc(x)) + F.linear(x, self.fc.weight)

    with pytest.raises(ValueError, match=r"^fc: converted, but"):
        mpt.convert(Peeking(), mpt.Biprop(prune=0.5), seed=0)
    assert len(ticket_layers(mpt.convert(Peeking(), mpt.Biprop(prune=0.5), seed=0, dense=("fc",)))) == 1


def test_a_transformer_layer_that_reads_weights_in_evaluation_only_is_refused_by_name():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.Linear(16, 3)

        def forward(self, x):
            return self.head(self.encoder(x).mean(1))

    x = torch.randn(3, 5, 16)
    with pytest.raises(ValueError, match=r"encoder\.linear1, encoder\.linear2: converted, but never called"):
        mpt.convert(Encoder(), mpt.Biprop(prune=0.5), seed=0, dense=("*.out_proj",), example=x)
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
    backbone = torchvision.models.resnet18(num_classes=10).train()
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
