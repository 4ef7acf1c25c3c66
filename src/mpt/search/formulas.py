"""What a method's formulas return is checked once, at conversion, rather than by torch in the first step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mpt.search.layers import ticket_layers
from mpt.search.methods import Method


@torch.no_grad()
def check_formulas(net: nn.Module, method: Method, *, seed: int | None) -> None:
    """ValueError if a formula of ``method`` returns what no layer of ``net`` can compute with.

    The first layer is tried. The formulas of :class:`mpt.Method` itself are not.

    Raises:
        ValueError: besides, the method draws weights again (:class:`mpt.IteRand`) and there is no ``seed``.
    """
    name, who, layers = type(method).__name__, type(method), ticket_layers(net)
    layer = next(iter(layers.values()), None)
    if layer is None:
        return
    if seed is None and method.draws_weights:
        raise ValueError(
            f"{name} draws weights again, and with seed=None they are the backbone's, of no distribution: give a seed"
        )
    weight, scores = layer.weight, layer.scores
    source = method.source(weight, scores)
    _check_like(f"{name}.source", source, weight.shape, weight.dtype)
    if who.importance is not Method.importance:
        _check_like(f"{name}.importance", method.importance(scores), weight.shape, scores.dtype)
    if who.mask is not Method.mask:
        _check_like(f"{name}.mask", method.mask(scores, kept=layer.num_kept), weight.shape, torch.bool)
    gain = method.gain(source, torch.ones_like(weight, dtype=torch.bool))
    if who.gain is not Method.gain:
        if not _broadcasts(gain, weight):
            raise ValueError(
                f"{name}.gain must return one number, or one for each output channel in a shape that broadcasts to the "
                f"weight's {tuple(weight.shape)}, as (O, 1, 1, 1) does, and returned {_kind(gain)}"
            )
        if not bool(torch.isfinite(gain).all()):
            raise ValueError(f"{name}.gain must return finite numbers, and with all weights kept it did not")
    if who.score_gradient is not Method.score_gradient:
        slope = method.score_gradient(torch.zeros_like(weight), source, scores, gain)
        _check_like(f"{name}.score_gradient", slope, weight.shape, weight.dtype)
    if who.penalty is not Method.penalty:
        _check_like(f"{name}.penalty", method.penalty(layers), torch.Size(), weight.dtype)


def _check_like(formula: str, value: object, shape: torch.Size, dtype: torch.dtype) -> None:
    """ValueError unless ``value``, which ``formula`` returned, is a tensor of this shape and type."""
    if not isinstance(value, Tensor) or value.shape != shape or value.dtype != dtype:
        raise ValueError(
            f"{formula} must return a tensor of the shape {tuple(shape)} of {dtype}, and returned {_kind(value)}"
        )


def _kind(value: object) -> str:
    return f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _broadcasts(gain: object, weight: Tensor) -> bool:
    try:
        return isinstance(gain, Tensor) and np.broadcast_shapes(tuple(gain.shape), weight.shape) == tuple(weight.shape)
    except ValueError:
        return False
