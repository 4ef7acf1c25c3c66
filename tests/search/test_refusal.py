from __future__ import annotations

import copy
from fnmatch import fnmatchcase

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

import mpt
from mpt.search.layers import ticket_layers
from mpt.search.refusal import layers_of_their_own, patterns_of


class Standardized(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias, self.stride, self.padding)


class Same(nn.Conv2d):
    """Pads as TensorFlow does: with an even side and a stride of 2, on one side only."""

    def forward(self, x):
        pads = [
            max((-(-n // s) - 1) * s + k - n, 0)
            for n, k, s in zip(x.shape[2:], self.kernel_size, self.stride, strict=True)
        ]
        x = F.pad(x, [pads[1] // 2, pads[1] - pads[1] // 2, pads[0] // 2, pads[0] - pads[0] // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride)


class Casting(nn.Linear):
    """As timm's Linear: another forward, the same numbers."""

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(F.dropout(x, 0.5, self.training))


class OwnConv(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight * 2, bias)


@pytest.mark.parametrize(
    ("layer", "is_own"),
    [
        (Standardized(3, 4, 3), True),
        (Same(3, 4, 3, stride=2), True),
        (Same(3, 4, 1), False),  # a kernel of 1 needs no padding
        (Casting(6, 4), False),
        (Casting(6, 4, bias=False), False),
        (Noisy(6, 4), True),  # in training
        (OwnConv(3, 4, 3), True),
        (nn.Conv2d(3, 4, 3), False),
        (nn.Linear(6, 4), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_numbers_decide_whether_a_layer_computes_in_its_own_way(layer, is_own):
    state = torch.random.get_rng_state()
    for each in (layer, copy.deepcopy(layer).requires_grad_(False), copy.deepcopy(layer).to("meta")):
        assert (list(layers_of_their_own({"fc": each})) == ["fc"]) == is_own
    assert torch.equal(state, torch.random.get_rng_state())
    nn.init.zeros_(layer.weight)  # the values that the backbone has decide nothing
    assert (list(layers_of_their_own({"fc": layer})) == ["fc"]) == is_own


def test_a_layer_with_another_forward_and_the_same_numbers_is_searched_and_its_ticket_gives_the_network_back():
    backbone = nn.Sequential(Casting(6, 8), nn.ReLU(), Casting(8, 3))
    net = mpt.convert(backbone, mpt.Biprop(prune=0.5), seed=0).eval()
    x = torch.randn(4, 6)
    assert len(ticket_layers(net)) == 2
    assert torch.equal(mpt.to_dense(net)(x), net(x))
    assert torch.equal(mpt.Ticket.from_network(net).network(backbone)(x), net(x))


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"conv": Standardized(4, 4, 1), "extra": nn.Linear(4, 4), "fine": nn.Conv2d(4, 4, 1)})
            for _ in range(3)
        )
        self.head = parametrizations.weight_norm(nn.Linear(4, 3))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = F.relu(block["fine"](block["conv"](x)))
        return self.head(F.linear(x.mean((2, 3)), self.blocks[0]["extra"].weight))


def test_all_layers_that_cannot_be_searched_are_named_at_once_and_the_advice_does():
    with pytest.raises(ValueError, match="other 4 of 11 layers") as caught:
        mpt.convert(Mixed(), mpt.Biprop(prune=0.5), seed=0)
    text = str(caught.value)
    assert "blocks.0.conv, blocks.1.conv, blocks.2.conv (Standardized) each compute in their own way" in text
    assert "the weight of head is parametrized" in text
    assert "blocks.0.extra, blocks.1.extra, blocks.2.extra: converted, but never called" in text
    assert "dense=['*.conv', '*.extra', 'head'], which" in text
    net = mpt.convert(Mixed(), mpt.Biprop(prune=0.5), seed=0, dense=["*.conv", "*.extra", "head"])
    assert list(ticket_layers(net)) == ["stem", "blocks.0.fine", "blocks.1.fine", "blocks.2.fine"]


def test_advice_keeps_what_is_left_out_already():
    with pytest.raises(ValueError, match=r"dense=\['blocks\.\*\.conv', 'stem', ") as caught:
        mpt.convert(Mixed(), mpt.Biprop(prune=0.5), seed=0, dense=["blocks.*.conv", "stem"])
    assert "own way" not in str(caught.value)


def test_a_network_without_a_layer_to_search_is_refused_for_good():
    backbone = nn.Sequential(Standardized(3, 4, 3), nn.ReLU(), Standardized(4, 4, 3))
    with pytest.raises(ValueError, match=r"0, 2 \(Standardized\) .* this network cannot be searched"):
        mpt.convert(backbone, mpt.Biprop(prune=0.5), seed=0)


@pytest.mark.parametrize(
    ("names", "others", "patterns"),
    [
        (["a", "b.0"], [], ["a", "b.0"]),
        ([f"blocks.{i}.conv" for i in range(12)], ["head"], ["*.conv"]),
        ([f"blocks.{i}.conv" for i in range(12)], ["stem.conv"], ["blocks.*.conv"]),
        ([f"{i}.conv" for i in range(12)], ["stem.conv"], [f"{i}.conv" for i in range(12)]),
        (["s.0.c", "s.1.c", "s.2.c", "t.4.c"], ["s.3.c"], ["s.0.c", "s.1.c", "s.2.c", "t.*.c"]),
    ],
)
def test_patterns_match_all_names_and_no_other(names, others, patterns):
    assert patterns_of(names, others=others) == patterns
    assert all(any(fnmatchcase(name, pattern) for pattern in patterns) for name in names)
    assert not any(fnmatchcase(name, pattern) for name in others for pattern in patterns)


def with_weight(weight):
    layer = nn.Linear(4, 4)
    layer.weight = weight
    return layer


def with_buffer(key="weight"):
    layer = nn.Linear(4, 4)
    value = getattr(layer, key).detach()
    delattr(layer, key)
    layer.register_buffer(key, value)
    return layer


@pytest.mark.parametrize("method", [mpt.Biprop(prune=0.5), mpt.EdgePopup(prune=0.5, bias=True)], ids=["biprop", "bias"])
def test_a_bias_that_is_a_buffer_is_no_obstacle(method, tmp_path):
    backbone, x = nn.Sequential(nn.Linear(4, 4), with_buffer("bias")), torch.randn(5, 4)
    converted = mpt.convert(backbone, method, example=x).eval()
    assert (converted[1].bias is not None) == method.bias
    mpt.Ticket.from_network(converted).save(tmp_path / "ticket.safetensors")
    loaded = mpt.Ticket.load(tmp_path / "ticket.safetensors").network(backbone)
    assert torch.equal(loaded(x), converted(x))


def computed_bias():
    return prune.random_unstructured(nn.Linear(4, 4), "bias", amount=0.5)


def test_a_ticket_refuses_a_backbone_whose_layers_compute_in_their_own_way():
    ticket = mpt.Ticket.from_network(mpt.convert(nn.Sequential(nn.Linear(4, 4)), mpt.Biprop(prune=0.5)))
    with pytest.raises(ValueError, match=r"0 \(Doubled\) computes in its own way"):
        ticket.network(nn.Sequential(Doubled(4, 4)))


class Scored(nn.Linear):
    def __init__(self):
        super().__init__(4, 4)
        self.scores = nn.Parameter(torch.zeros(4, 4))


class Doubled(nn.Linear):
    def __call__(self, x):
        return 2 * super().__call__(x)


def watched():
    """A layer with a hook that takes no other values than its own."""
    layer = Noisy(4, 4)
    layer.register_forward_hook(lambda *_: 1 / 0)
    return layer


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: parametrizations.weight_norm(nn.Linear(4, 4)), "the weight of 1, 2 is parametrized"),
        (lambda: parametrizations.orthogonal(nn.Linear(4, 4)), "the weight of 1, 2 is parametrized"),
        (lambda: parametrizations.weight_norm(nn.Linear(4, 4), "bias", dim=None), "the bias of 1, 2 is parametrized"),
        (computed_bias, "the bias of 1, 2 is computed from other tensors (weight_norm, spectral_norm, pruning)"),
        (with_buffer, "the weight of 1, 2 is a buffer"),
        (lambda: with_weight(None), "the weight of 1, 2 is missing"),
        (lambda: nn.Linear(4, 4, dtype=torch.complex64), "the weight of 1, 2 is of torch.complex64, where a search"),
        (lambda: with_weight(nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)), "of torch.int8"),
        (lambda: with_weight(nn.Parameter(torch.ones(4, 4).to(torch.float8_e4m3fn))), "of torch.float8_e4m3fn"),
        (lambda: with_weight(nn.Parameter(torch.ones(0, 4))), "the weight of 1, 2 has no entry"),
        (Scored, "a part of 1, 2 is called scores, as a part of ticket layers is"),
        (lambda: Doubled(4, 4), "1, 2 (Doubled) each compute in their own way"),
        (watched, "1, 2 (Noisy) each compute in their own way"),
    ],
)
def test_layers_without_a_weight_to_search_are_named_at_once(build, reason):
    backbone = nn.Sequential(nn.Linear(4, 4), build(), build())
    with pytest.raises(ValueError) as caught:
        mpt.convert(backbone, mpt.Biprop(prune=0.5), example=torch.ones(2, 4))
    assert reason in str(caught.value)
    assert "dense=['1', '2'], which searches the other 1 of 3 layers" in str(caught.value)


def test_a_layer_that_is_read_in_vain_is_named_once():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.aux = nn.Linear(4, 4), nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

        def forward(self, x):
            return self.fc(x)

    with pytest.raises(ValueError, match=r"^aux\.0, aux\.1: converted, but"):
        mpt.convert(Unused(), mpt.Biprop(prune=0.5), example=torch.ones(2, 4))
