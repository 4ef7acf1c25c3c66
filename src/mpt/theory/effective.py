"""What a constructed layer computes: for each sign of an input one weight, read from masks, signs and gains alone.

A first random layer V with one kept entry a neuron splits each input x into multiples of relu(x) and relu(-x). Later
hidden layers add what is never negative, so that their ReLUs do nothing:

    C[h]  = |v| in the column of relu(x_j) if v > 0, of relu(-x_j) if v < 0         first hidden layer, (h, 2 d)
    C     <- V C,  V >= 0                                                           every further one
    U C   = [P, -N]                    U relu(...) = P x where x >= 0, N x where x < 0

Where a mask does not have this form (a neuron with two inputs, a negative entry further on) there are no such weights,
and the certificate bounds the layers themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpt.search.layers import ticket_layers
from mpt.theory.target import Target
from mpt.ticket.ticket import Ticket

ROUND = 2.0**-52


@dataclass(frozen=True)
class Effective:
    """A constructed layer.

    Attributes:
        chain: ticket weights of its layers, float64; the inner ones of a convolution are 1x1.
        positive, negative: P and N, of the shape of the target's weight; None where the layer has no such form.
        slack: bound on the rounding of P and N, of their shape.
        bias: (outputs,), float64, zeros where there is none.
    """

    chain: tuple[Tensor, ...]
    positive: Tensor | None
    negative: Any
    slack: Any
    bias: Tensor


def effective_layers(target: Target, built: nn.Module | Ticket) -> dict[str, Effective]:
    """The constructed layers of ``built`` by the names of the target's.

    Raises:
        ValueError: ``built`` is not a construction of this target.
    """
    weights, biases = _readers(built)
    layers = {}
    for name, layer in target.layers.items():
        parts = sorted((part for part in weights if part.rpartition(".")[0] == name), key=_place)
        if len(parts) < 2:
            raise ValueError(f"the network is not constructed from this target: it has no random layers for {name}")
        chain = [weights[part]() for part in parts]
        bias = biases.get(f"{parts[-1]}.bias")
        shapes = chain[0].shape[1], *chain[-1].shape[:1], *chain[-1].shape[2:]
        if shapes != (layer.weight.shape[1], layer.weight.shape[0], *layer.weight.shape[2:]):
            raise ValueError(f"the network is not constructed from this target: {name} has other shapes")
        zeros = layer.weight.new_zeros(len(layer.weight))
        layers[name] = of_chain(chain, bias=zeros if bias is None else bias.detach().double())
    return layers


def _place(name: str) -> int:
    last = name.rpartition(".")[2]
    return int(last) if last.isdecimal() else -1


def _readers(built: nn.Module | Ticket) -> tuple[Mapping[str, Callable[[], Tensor]], Mapping[str, Tensor]]:
    """What gives each layer's ticket weight, and all biases, by name."""
    if isinstance(built, Ticket):
        return {layer.name: layer.weight for layer in built.layers}, {s.name: s.value for s in built.others}
    layers = ticket_layers(built)
    return {name: layer.ticket_weight for name, layer in layers.items()}, dict(built.named_parameters())


def of_chain(chain: Sequence[Tensor], *, bias: Tensor) -> Effective:
    """The effective weights of random layers with these ticket weights, from the first."""
    from scipy.sparse import csr_matrix

    with torch.no_grad():
        *inner, outer = [weight.detach().cpu() for weight in chain]
        first, *others = [csr_matrix(weight.flatten(1).numpy()).astype(np.float64) for weight in inner]
        shape, columns = outer.shape, first.shape[1]
        rows = outer.flatten(2).transpose(1, 2).flatten(0, 1) if outer.dim() > 2 else outer
        last = csr_matrix(rows.numpy()).astype(np.float64)
    if (np.diff(first.indptr) > 1).any() or any((part.data < 0).any() for part in others):
        dense = tuple(weight.detach().cpu().double() for weight in chain)
        return Effective(dense, None, None, None, bias)
    split = csr_matrix(
        (np.abs(first.data), first.indices + columns * (first.data < 0), first.indptr), (first.shape[0], 2 * columns)
    )
    terms = 0
    for part in others:
        split, terms = part @ split, terms + int(np.diff(part.indptr).max(initial=0)) + 2
    sums, sizes = (last @ split).toarray(), (abs(last) @ split).toarray()
    terms += int(np.diff(last.indptr).max(initial=0)) + 4
    slack = terms * ROUND * np.maximum(sizes[:, :columns], sizes[:, columns:])
    positive, negative, slack = (_as_weight(x, shape) for x in (sums[:, :columns], -sums[:, columns:], slack))
    return Effective((), positive, negative, slack, bias)


def _as_weight(rows: np.ndarray, shape: Sequence[int]) -> Tensor:
    """(rows places, columns) -> the shape of the target's weight, whose outputs and kernel are those of ``shape``."""
    values = torch.from_numpy(np.ascontiguousarray(rows))
    if len(shape) == 2:
        return values
    return values.view(shape[0], -1, rows.shape[1]).transpose(1, 2).reshape(shape[0], rows.shape[1], *shape[2:])
