from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import mpt
from mpt.search.attention import SplitAttention, split_attention
from mpt.search.unsearched import UnsearchedLayers

QUERIES, KEYS = 5, 7
MASKS = {
    "none": None,
    "bool": torch.ones(QUERIES, KEYS, dtype=torch.bool).triu(3),
    "float": torch.linspace(-1, 1, QUERIES * KEYS).view(QUERIES, KEYS),
    "heads": torch.ones(12, QUERIES, KEYS, dtype=torch.bool).triu(2),
}


def attention(**options):
    module = nn.MultiheadAttention(16, 4, **options)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


def inputs(module, *, batch=3):
    sizes = (QUERIES, 16), (KEYS, module.kdim), (KEYS, module.vdim)
    tensors = [torch.randn(batch, length, size) for length, size in sizes]
    return tensors if module.batch_first else [x.transpose(0, 1) for x in tensors]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("options", [{"batch_first": True}, {"kdim": 12, "vdim": 20}, {"bias": False}])
def test_split_attention_gives_the_outputs_and_weights_of_torch_s(options, padded, mask):
    module = attention(**options)
    padding = (torch.arange(KEYS)[None] >= torch.tensor([7, 6, 5])[:, None]) if padded else None
    if padded and mask == "float":
        padding = torch.zeros(3, KEYS).masked_fill(padding, -10.0)
    for choice in ({}, {"need_weights": False}, {"average_attn_weights": False}):
        arguments = {"attn_mask": MASKS[mask], "key_padding_mask": padding, **choice}
        x = inputs(module)
        torch.testing.assert_close(SplitAttention(module)(*x, **arguments), module(*x, **arguments))


def test_one_sequence_without_a_batch_works_too():
    module = attention()
    x = [t[:, 0] for t in inputs(module)]
    torch.testing.assert_close(SplitAttention(module)(*x), module(*x))


def test_every_attention_of_a_transformer_is_split_and_its_fused_kernel_stays_off():
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2).eval()
    x = torch.randn(2, 5, 16)
    expected = net(x)
    split_attention(net, keep=["layers.1.self_attn"])
    assert isinstance(net.layers[0].self_attn, SplitAttention)
    assert isinstance(net.layers[1].self_attn, nn.MultiheadAttention)
    split_attention(net)
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected)
        nn.init.zeros_(net.layers[0].self_attn.out_proj.weight)
        assert not torch.allclose(net(x), expected)


def test_attention_with_further_keys_stays_as_it_is():
    net = nn.Sequential(nn.MultiheadAttention(8, 2, add_bias_kv=True), nn.MultiheadAttention(8, 2, add_zero_attn=True))
    split_attention(net)
    assert all(type(module) is nn.MultiheadAttention for module in net)


def test_dropout_acts_in_training_alone():
    module = attention(dropout=0.5)
    split, x = SplitAttention(module), inputs(module)
    assert torch.equal(split(*x)[0], split(*x)[0])
    split.train()
    assert not torch.equal(split(*x)[0], split(*x)[0])


class Twice(nn.Module):
    """One attention used twice, by two names, and a second one with the same weights."""

    def __init__(self):
        super().__init__()
        self.first, self.tied, self.head = attention(), attention(), nn.Linear(16, 3)
        self.again = self.first
        self.tied.in_proj_weight, self.tied.out_proj.weight = self.first.in_proj_weight, self.first.out_proj.weight

    def forward(self, x):
        for module in (self.first, self.again, self.tied):
            x = x + module(x, x, x)[0]
        return self.head(x)


def test_attention_that_is_shared_stays_shared():
    backbone, x = Twice(), torch.randn(QUERIES, 3, 16)
    expected = backbone(x)
    split_attention(backbone)
    torch.testing.assert_close(backbone(x), expected)
    assert backbone.first is backbone.again
    net = mpt.convert(Twice(), mpt.Biprop(prune=0.5), example=x).eval()
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        assert getattr(net.first, name).scores is getattr(net.tied, name).scores
    assert torch.equal(mpt.Ticket.from_network(net).network(Twice())(x), net(x))


def test_code_that_reads_the_projections_past_the_attention_reads_ticket_weights():
    class Reading(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = attention(), nn.Linear(16, 3)

        def forward(self, x):
            query = nn.functional.linear(x, self.attention.in_proj_weight[:16])
            return self.head(self.attention(query, x, x)[0])

    backbone, x = Reading(), torch.randn(QUERIES, 3, 16)
    net = mpt.convert(backbone, mpt.Biprop(prune=0.5), example=x)
    assert torch.equal(net.attention.in_proj_weight[16:32], net.attention.k_proj.ticket_weight())
    net(x).sum().backward()
    assert all(parameter.grad.any() for parameter in net.parameters() if parameter.requires_grad)
    split = SplitAttention(backbone.attention)
    assert torch.equal(split.in_proj_weight, backbone.attention.in_proj_weight)
    assert SplitAttention(attention(kdim=12, vdim=20)).in_proj_weight is None


class Padded(nn.Module):
    """An encoder of two layers that gets the lengths of its sequences as a mask."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(16, 3)

    def forward(self, x, padding):
        return self.head(self.encoder(x, src_key_padding_mask=padding))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_an_encoder_of_padded_sequences_converts_and_computes_what_torch_s_does():
    backbone, x = Padded().eval(), torch.randn(3, KEYS, 16)
    padding = torch.arange(KEYS)[None] >= torch.tensor([7, 6, 5])[:, None]
    split = copy.deepcopy(backbone)
    split_attention(split)
    with torch.no_grad():
        expected = backbone(x, padding)
        torch.testing.assert_close(split(x, padding)[~padding], expected[~padding])
    net = mpt.convert(backbone, mpt.Biprop(prune=0.5), example=(x, padding))
    net(x, padding).sum().backward()
    assert all(layer.self_attn.q_proj.scores.grad.any() for layer in net.encoder.layers)
    assert backbone.encoder.use_nested_tensor
    logits = net.eval()(x, padding)
    assert torch.equal(mpt.to_dense(net)(x, padding), logits)
    assert torch.equal(mpt.Ticket.from_network(net).network(Padded())(x, padding), logits)


@pytest.mark.filterwarnings("ignore:.*MultiheadAttention")
def test_an_encoder_of_padded_sequences_whose_attention_stays_converts_too():
    backbone, x, padding = Padded(), torch.randn(3, KEYS, 16), torch.arange(KEYS)[None] >= torch.tensor([[7], [6], [5]])
    for layer in backbone.encoder.layers:
        prune.random_unstructured(layer.self_attn, "in_proj_weight", 0.5)
    net = mpt.convert(backbone, mpt.Biprop(prune=0.5), example=(x, padding)).eval()
    assert torch.equal(mpt.to_dense(net)(x, padding), net(x, padding))


class Head(nn.Module):
    """An attention whose weights a function has replaced by computed ones, and a layer."""

    def __init__(self, replace):
        super().__init__()
        self.attention, self.head = attention(), nn.Linear(16, 3)
        replace(self.attention)

    def forward(self, x):
        return self.head(self.attention(x, x, x)[0])


@pytest.mark.parametrize(
    "replace",
    [
        lambda module: prune.random_unstructured(module, "in_proj_weight", 0.5),
        lambda module: prune.random_unstructured(module, "in_proj_bias", 0.5),
        pytest.param(
            lambda module: nn.utils.weight_norm(module, "in_proj_weight"),
            marks=pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated"),
        ),
    ],
    ids=["pruned", "pruned bias", "weight norm"],
)
def test_attention_whose_weights_are_computed_stays_as_it_is_and_is_named(replace):
    x = torch.randn(QUERIES, 3, 16)
    with pytest.warns(UnsearchedLayers, match=r"^attention \(MultiheadAttention\): mpt does not search such weights"):
        net = mpt.convert(Head(replace), mpt.Biprop(prune=0.5), example=x)
    assert type(net.attention) is nn.MultiheadAttention
    net(x).sum().backward()
    assert net.head.scores.grad.any()


def test_attention_whose_output_weights_are_computed_is_refused_by_name():
    backbone, x = Head(lambda module: prune.random_unstructured(module.out_proj, "weight", 0.5)), torch.randn(5, 3, 16)
    with pytest.raises(ValueError, match=r"^the weight of attention\.out_proj is computed .*dense=\['attention\.out_"):
        mpt.convert(backbone, mpt.Biprop(prune=0.5), example=x)
