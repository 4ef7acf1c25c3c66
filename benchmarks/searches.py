"""The networks whose training steps are measured: dense, searched by mpt, and searched as in published implementations.

Each of the latter is restated from its mask on; layers, initial values and all else are mpt's, so that only the search
differs. The masks are those of mpt unless scores are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mpt import Biprop, Dense, convert
from mpt.search.layers import ticket_layers

PRUNE = 0.8


def dense(backbone: nn.Module) -> nn.Module:
    """``backbone`` as a plain network, all weights trained."""
    return convert(backbone, Dense())


def biprop(backbone: nn.Module) -> nn.Module:
    """``backbone`` searched by biprop."""
    return convert(backbone, Biprop(prune=PRUNE))


def binary(backbone: nn.Module) -> nn.Module:
    """``backbone`` searched by biprop with binary activations (MPT-1/1), for 3x32x32 images."""
    return convert(backbone, Biprop(prune=PRUNE), binary_activations=True, example=torch.zeros(2, 3, 32, 32))


def full_sort(backbone: nn.Module) -> nn.Module:
    """``backbone`` searched by biprop as it was published: all scores sorted in every layer and forward."""
    return _searched(backbone, lambda layer: FullSort.apply(layer.scores, layer.weight, layer.num_kept))


def kthvalue(backbone: nn.Module) -> nn.Module:
    """``backbone`` searched as in IteRand's code: ``torch.kthvalue``, whose value the host waits for."""

    def ticket_weight(layer: Any) -> Tensor:
        importance = layer.scores.abs()
        threshold = _kth(importance.detach()).item()
        return layer.weight * Mask.apply(importance, threshold)

    return _searched(backbone, ticket_weight)


def clamped_kthvalue(backbone: nn.Module) -> nn.Module:
    """``backbone`` searched as by torchao's supermask layers: clamped scores, ``torch.kthvalue``, a scaled weight."""

    def ticket_weight(layer: Any) -> Tensor:
        importance = layer.scores.abs()
        clamped = importance.detach().clamp(max=9e9)
        return (layer.weight * 1.0 + 0.0) * Mask.apply(importance, _kth(clamped))

    return _searched(backbone, ticket_weight)


class FullSort(torch.autograd.Function):
    """Compute the ticket weight by sorting all scores; straight-through ``dL/ds = dL/db w sign(s)``."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, weight: Tensor, kept: int) -> Tensor:
        order = torch.sort(scores.abs().flatten()).indices
        mask = torch.zeros(scores.numel(), device=scores.device)
        mask[order[-kept:]] = 1
        mask = mask.view(scores.shape)
        gain = (mask * weight.abs()).sum() / kept
        ctx.save_for_backward(scores, weight)
        return gain * mask * weight.sign()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scores, weight = ctx.saved_tensors
        return grads[0] * weight * scores.sign(), None, None


class Mask(torch.autograd.Function):
    """1 where the importance reaches a threshold, else 0; the gradient passes straight through."""

    @staticmethod
    def forward(ctx: Any, importance: Tensor, threshold: Tensor | float) -> Tensor:
        zeros, ones = torch.zeros_like(importance), torch.ones_like(importance)
        return torch.where(importance < threshold, zeros, ones)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


def _kth(importance: Tensor) -> Tensor:
    """The value below which the fraction ``PRUNE`` lies."""
    return importance.flatten().kthvalue(1 + round(PRUNE * (importance.numel() - 1))).values


def _searched(backbone: nn.Module, ticket_weight: Callable[[Any], Tensor]) -> nn.Module:
    """``backbone`` searched by biprop, except for how a layer computes its ticket weight."""
    net = biprop(backbone)
    for layer in ticket_layers(net).values():
        layer.ticket_weight = partial(ticket_weight, layer)  # type: ignore[method-assign]
    return net
