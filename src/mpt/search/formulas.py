"""What a method's formulas return is checked once, at conversion, rather than by torch in the first step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mpt.search.layers import ticket_layers
from mpt.search.methods import Method


@torch.no_grad()
def check_formulas(net: nn.Module, method: Method, *, seed: int | None) -> None:
    """ValueError if ``source`` or ``gain`` of ``method`` return what no layer of ``net`` can compute with.

    The first layer is tried, with a mask that keeps all of its weights.

    Raises:
        ValueError: besides, the method draws weights again (:class:`mpt.IteRand`) and there is no ``seed``.
    """
    name, who = type(method).__name__, type(method)
    layer = next(iter(ticket_layers(net).values()), None)
    if layer is None:
        return
    if seed is None and method.draws_weights:
        raise ValueError(
            f"{name} draws weights again, and with seed=None they are the backbone's, of no distribution: give a seed"
        )
    weight: Tensor = layer.weight
    source = method.source(weight, layer.scores)
    if source.shape != weight.shape or source.dtype != weight.dtype:
        raise ValueError(
            f"{name}.source must return weights of the shape and type that it gets, {tuple(weight.shape)} of "
            f"{weight.dtype}, and returned {tuple(source.shape)} of {source.dtype}"
        )
    if who.gain is Method.gain:
        return
    gain = method.gain(source, torch.ones_like(weight, dtype=torch.bool))
    if not _broadcasts(gain, weight):
        raise ValueError(
            f"{name}.gain must return one number, or one for each output channel in a shape that broadcasts to the "
            f"weight's {tuple(weight.shape)}, as (O, 1, 1, 1) does, and returned {tuple(gain.shape)}"
        )


def _broadcasts(gain: Tensor, weight: Tensor) -> bool:
    try:
        return np.broadcast_shapes(tuple(gain.shape), tuple(weight.shape)) == tuple(weight.shape)
    except ValueError:
        return False
