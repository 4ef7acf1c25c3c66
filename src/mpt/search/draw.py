"""Draws the weights, scores and patterns of the layers of a network, each from the stream of its layer's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mpt.search.initializers import random_pattern, random_scores, random_weight
from mpt.search.layers import TicketLayer
from mpt.search.methods import Method


@torch.no_grad()
def draw(layers: Mapping[str, Any], method: Method, *, seed: int | None) -> None:
    """Draw weights (if there is a seed), scores and patterns of ``layers``.

    Layers that share a weight share what the first of them draws.

    Args:
        layers: by name: ticket layers, or plain ones, which have weights alone.
        method: of the search.
        seed: of the streams; without one, scores and patterns are drawn from the streams of 0.
    """
    first: dict[int, Any] = {}  # by the identity of the weight
    for name, layer in layers.items():
        owner = first.setdefault(id(layer.weight), layer)
        if owner is layer:
            _draw_layer(name, layer, method, seed)
        elif isinstance(layer, TicketLayer):
            layer.pattern = owner.pattern


def _draw_layer(name: str, layer: Any, method: Method, seed: int | None) -> None:
    shape, prune = layer.weight.shape, method.layer_prune(name)
    if seed is not None:
        fresh = random_weight(shape, seed=seed, layer=name, init=method.init, scale_fan=method.scale_fan, prune=prune)
        layer.weight.copy_(fresh)
    if not isinstance(layer, TicketLayer):
        return
    layer.scores.copy_(
        random_scores(
            shape,
            seed=seed or 0,
            layer=name,
            init=method.score_init,
            start=method.score_start,
            power=method.power,
        )
    )
    if method.pattern is not None:
        n = shape.numel()
        kept = method.num_kept(n, layer=name)
        pattern = random_pattern(n, seed=seed or 0, layer=name, kept=kept, shares=method.pattern)
        layer.pattern = torch.from_numpy(pattern).view(shape).to(layer.weight.device)
