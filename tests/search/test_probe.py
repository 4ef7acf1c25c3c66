from __future__ import annotations

import dataclasses
import math
import types

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


class Sum(nn.Module):
    """``fc`` of all tensors in whatever it gets."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x, *scales):
        tensors = [x] if isinstance(x, torch.Tensor) else [*x.values()] if isinstance(x, dict) else x
        return sum(self.fc(each) for each in tensors) * math.prod(scales)


@pytest.mark.parametrize(
    "example",
    [
        torch.randn(2, 4),
        (torch.randn(2, 4), 2.0),
        ([torch.randn(2, 4), torch.randn(2, 4)],),
        ({"x": torch.randn(2, 4)},),
        (torch.randn(4),),
    ],
    ids=["tensor", "number", "list", "dict", "vector"],
)
def test_an_example_is_a_tensor_or_a_tuple_of_whatever_the_forward_takes(example):
    net = mpt.convert(Sum(), mpt.Biprop(prune=0.5), example=example)
    net(*(example if isinstance(example, tuple) else (example,))).sum().backward()
    assert net.fc.scores.grad.any()


@pytest.mark.parametrize("example", [[torch.ones(2, 4)], {"x": torch.ones(2, 4)}, torch.ones(2, 4).numpy(), 3])
def test_another_example_is_refused(example):
    with pytest.raises(ValueError, match=r"example is a tensor, or a tuple .*, give \(example,\)$"):
        mpt.convert(Sum(), mpt.Biprop(prune=0.5), example=example)


@pytest.mark.parametrize("example", [torch.ones(2, 5), torch.ones(2, 4).half(), (), (torch.ones(2, 4), "x")])
@pytest.mark.parametrize("binary_activations", [False, True])
def test_an_example_that_the_backbone_does_not_take_is_refused_with_the_reason(example, binary_activations):
    with pytest.raises(ValueError, match=r"cannot compute with .*input.* \(.+\): give example=<one batch"):
        mpt.convert(Sum(), mpt.Biprop(prune=0.5), example=example, binary_activations=binary_activations)


def test_indices_are_repeated_and_never_noise():
    backbone = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4))
    net = mpt.convert(backbone, mpt.Biprop(prune=0.5), example=torch.tensor([[0, 1, 2]]), trained=["0.weight"])
    assert list(ticket_layers(net)) == ["1"]


@dataclasses.dataclass
class Output:
    logits: torch.Tensor


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: (x, {"x": [x]}),
        lambda x: Output(x),
        lambda x: types.SimpleNamespace(x=x),
        lambda x: x.to_sparse(),
        lambda x: torch.complex(x, x),
    ],
    ids=["nested", "dataclass", "namespace", "sparse", "complex"],
)
def test_a_weight_that_is_read_past_its_layer_is_found_in_any_output(wrap):
    class Peeking(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.other = nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 3)

        def forward(self, x):
            return wrap(self.other(F.linear(x, self.inner[0].weight) + 0 * self.inner(x)))

    with pytest.raises(ValueError, match=r"^inner\.0: converted, but never called"):
        mpt.convert(Peeking(), mpt.Biprop(prune=0.5), example=torch.ones(2, 4))


@pytest.mark.parametrize("unused", [False, True])
def test_a_weight_that_is_read_without_its_nan_is_searched_unless_it_changes_nothing(unused):
    class Clean(nn.Module):
        def __init__(self):
            super().__init__()
            self.read, self.other = nn.Linear(4, 4, bias=False), nn.Linear(4, 3)

        def forward(self, x):
            weight = self.read.weight.nan_to_num() * (not unused)
            return self.other(F.linear(x, weight)) + torch.rand(3)

    x = torch.ones(2, 4)
    if unused:
        with pytest.raises(ValueError, match=r"^read: converted, but never called .*, nor read to any effect by the"):
            mpt.convert(Clean(), mpt.Biprop(prune=0.5), example=x)
        return
    net = mpt.convert(Clean(), mpt.Biprop(prune=0.5), example=x)
    net(x).square().sum().backward()
    assert net.read.scores.grad.any()
    torch.manual_seed(0)
    expected = mpt.to_dense(net)(x)
    torch.manual_seed(0)
    assert torch.equal(net(x), expected)


def test_a_backbone_that_refuses_nan_is_probed():
    class Strict(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.unused = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 4)

        def forward(self, x):
            x = self.first(x)
            assert x.isfinite().all()
            return self.second(x)

    with pytest.raises(ValueError, match=r"^unused: converted, but never called"):
        mpt.convert(Strict(), mpt.Biprop(prune=0.5), example=torch.ones(2, 4))


def test_a_backbone_for_batches_of_one_size_converts():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x):
            assert len(x) == 1
            return self.norm(self.fc(x))

    assert list(ticket_layers(mpt.convert(Two(), mpt.Biprop(prune=0.5), example=torch.ones(1, 4)))) == ["fc"]
