"""Draws the weights, scores and patterns of the layers of a network, each from the stream of its layer's name."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from mpt.search.initializers import random_pattern, random_scores, random_weight
from mpt.search.layers import TicketLayer
from mpt.search.methods import Method


def draw(layers: Mapping[str, Any], method: Method, *, seed: int | None) -> None:
    """Draw weights (if there is a seed), scores and patterns of ``layers``.

    Layers that share a weight share what the first of them draws.

    Args:
        layers: by name: ticket layers, or plain ones, which have weights alone.
        method: of the search.
        seed: of the streams; without one, scores and patterns are drawn from the streams of 0.
    """
    first: dict[int, str] = {}  # the identity of a weight -> the first layer that has it
    for name, layer in layers.items():
        first.setdefault(id(layer.weight), name)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # NumPy draws without the interpreter's lock
        for _ in pool.map(lambda name: _draw_layer(name, layers[name], method, seed), first.values()):
            pass
    for layer in layers.values():
        if isinstance(layer, TicketLayer):
            layer.pattern = layers[first[id(layer.weight)]].pattern


@torch.no_grad()  # a thread's own
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
