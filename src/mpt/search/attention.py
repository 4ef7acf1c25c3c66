"""Attention whose projections can be searched: those of ``nn.MultiheadAttention`` are no layers.

    Q = W_q query,  K = W_k key,  V = W_v value,   out = W_o concat_h softmax(Q_h K_h' / sqrt(d) + mask) V_h

:func:`split_attention` puts :class:`SplitAttention` in the place of each ``nn.MultiheadAttention`` of a network. The
outputs are the same up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SplitAttention(nn.Module):
    """The same as the ``nn.MultiheadAttention`` that it takes the weights of, with four linear layers.

    Args:
        attention: without ``add_bias_kv`` and ``add_zero_attn``.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        self.dropout, self.batch_first = attention.dropout, attention.batch_first
        whole = attention.in_proj_weight
        self._qkv_same_embed_dim = whole is not None
        own = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
        weights = own if whole is None else whole.chunk(3)
        biases = (None,) * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = map(_linear, weights, biases)
        self.out_proj = _linear(attention.out_proj.weight, attention.out_proj.bias)
        self.in_proj_bias = None  # by this torch's transformer layers know that their fused kernel must not be used
        self.train(attention.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,  # a hint that attn_mask is causal; the mask itself is used
    ) -> tuple[Tensor, Tensor | None]:
        """See :class:`torch.nn.MultiheadAttention`, whose shapes, masks and results these are."""
        is_batch, swap = query.dim() == 3, query.dim() == 3 and not self.batch_first
        q, k, v = (self._heads(layer(x), is_batch, swap) for layer, x in self._projections(query, key, value))
        mask = _merge(attn_mask, key_padding_mask if is_batch else _unsqueeze(key_padding_mask), q, k)
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
            shares = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout, self.training)
            out = shares @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        out = self.out_proj(out.transpose(1, 2).flatten(2))  # (N, L, E)
        out = out.transpose(0, 1) if swap else out if is_batch else out[0]
        if not need_weights:
            return out, None
        shares = shares.mean(1) if average_attn_weights else shares
        return out, shares if is_batch else shares[0]

    @property
    def in_proj_weight(self) -> Tensor | None:
        """For code that reads it, as torch's has it: what the first three layers compute with, (3 E, E)."""
        layers: list[Any] = [self.q_proj, self.k_proj, self.v_proj]
        weights = [layer.ticket_weight() if hasattr(layer, "ticket_weight") else layer.weight for layer in layers]
        return torch.cat(weights) if self._qkv_same_embed_dim else None

    def layers_of(self) -> dict[str, list[nn.Linear]]:
        """The layers that have the weight of each name of torch's module."""
        whole, own = [self.q_proj, self.k_proj, self.v_proj], ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        each = {key: [layer] for key, layer in zip(own, whole, strict=True)}
        first = {"in_proj_weight": whole} if self._qkv_same_embed_dim else each
        return {**first, "out_proj.weight": [self.out_proj]}

    def _projections(self, *inputs: Tensor) -> list[tuple[nn.Module, Tensor]]:
        return list(zip((self.q_proj, self.k_proj, self.v_proj), inputs, strict=True))

    def _heads(self, x: Tensor, is_batch: bool, swap: bool) -> Tensor:
        """(L, N, E), (N, L, E) or (L, E) -> (N, heads, L, E / heads)."""
        x = x.transpose(0, 1) if swap else x if is_batch else x[None]
        return x.reshape(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)


def split_attention(net: nn.Module, *, keep: Collection[str] = ()) -> list[str]:
    """Replace each ``nn.MultiheadAttention`` of ``net`` but those named in ``keep``, in place; return their names.

    What is shared stays shared: one that is used twice, and weights that two have. Those with extra keys
    (``add_bias_kv``, ``add_zero_attn``) stay, as do those whose weights are computed (pruning, ``weight_norm``), and
    subclasses, which may compute in another way. Encoders no longer take nested tensors, with which only torch's fused
    kernel computes.
    """
    found = {
        name: module
        for name, module in net.named_modules(remove_duplicate=False)
        if type(module) is nn.MultiheadAttention
        and module.bias_k is None
        and not module.add_zero_attn
        and _has_parameters(module)
    }
    kept = {id(found[name]) for name in keep if name in found}
    names = [name for name, module in found.items() if name and id(module) not in kept]
    made, owners = dict[int, SplitAttention](), dict[int, list[nn.Linear]]()
    for name in names:
        attention = found[name]
        if id(attention) not in made:
            split = made[id(attention)] = SplitAttention(attention)
            for key, layers in split.layers_of().items():
                weight = attention.get_parameter(key)
                for layer, owner in zip(layers, owners.setdefault(id(weight), layers), strict=True):
                    layer.weight = owner.weight
        net.set_submodule(name, made[id(attention)])
    for module in net.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.enable_nested_tensor = module.use_nested_tensor = False
    return names


def _has_parameters(attention: nn.MultiheadAttention) -> bool:
    """Whether all that ``attention`` computes with are parameters."""
    own = [getattr(attention, f"{key}_proj_weight") for key in ("in", "q", "k", "v")]
    values = [*own, attention.in_proj_bias, attention.out_proj.weight, attention.out_proj.bias]
    return all(value is None or isinstance(value, nn.Parameter) for value in values)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def _unsqueeze(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask[None]


def _merge(attn_mask: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """What is added to the scores, in a shape that broadcasts to (N, heads, L, S); -inf where a mask says True."""
    parts = []
    if attn_mask is not None:  # (L, S) or (N heads, L, S)
        parts.append(attn_mask if attn_mask.dim() == 2 else attn_mask.view(len(q), -1, *attn_mask.shape[1:]))
    if padding is not None:  # (N, S)
        parts.append(padding[:, None, None, :])
    added = [
        torch.zeros_like(m, dtype=q.dtype).masked_fill_(m, -math.inf) if m.dtype == torch.bool else m for m in parts
    ]
    return None if not added else added[0] if len(added) == 1 else added[0] + added[1]
