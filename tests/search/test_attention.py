from __future__ import annotations

import pytest
import torch
from torch import nn

from mpt.search.attention import SplitAttention, split_attention

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
