"""What a method's formulas return is checked once, at conversion, rather than by torch in the first step."""

from __future__ import annotations

import inspect

import numpy as np
import torch
from torch import Tensor, nn

from mpt.search.layers import ticket_layers
from mpt.search.methods import Method
from mpt.values import is_number

FORMULAS = (
    "importance",
    "mask",
    "gain",
    "source",
    "sample",
    "ticket_weight",
    "score_gradient",
    "penalty",
    "update",
)


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
    for formula in FORMULAS:
        _check_signature(method, formula)
    if method.pattern is not None:
        _check_pattern(name, method.pattern)
    weight, scores = layer.weight, layer.scores
    source = method.source(weight, scores)
    _check_like(f"{name}.source", source, weight.shape, weight.dtype)
    if who.importance is not Method.importance:
        importance = method.importance(scores)
        _check_like(f"{name}.importance", importance, weight.shape, scores.dtype)
        _check_finite(f"{name}.importance", importance)
    if who.mask is not Method.mask:
        _check_like(f"{name}.mask", method.mask(scores, kept=layer.num_kept), weight.shape, torch.bool)
    gain = method.gain(source, torch.ones_like(weight, dtype=torch.bool))
    if who.gain is not Method.gain:
        if not _broadcasts(gain, weight):
            raise ValueError(
                f"{name}.gain must return one number, or one for each output channel in a shape that broadcasts to the "
                f"weight's {tuple(weight.shape)}, as (O, 1, 1, 1) does, and returned {_kind(gain)}"
            )
        _check_finite(f"{name}.gain", gain)
    if who.score_gradient is not Method.score_gradient:
        slope = method.score_gradient(torch.zeros_like(weight), source, scores, gain)
        _check_like(f"{name}.score_gradient", slope, weight.shape, weight.dtype)
    ticket_weight = method.ticket_weight(source, torch.ones_like(weight, dtype=torch.bool), gain)
    _check_like(f"{name}.ticket_weight", ticket_weight, weight.shape, weight.dtype)
    _check_finite(f"{name}.ticket_weight", ticket_weight)
    if who.sample is not Method.sample:
        _check_sample(f"{name}.sample", method.sample(scores), weight)
    if who.penalty is not Method.penalty:
        penalty = method.penalty(layers)
        _check_like(f"{name}.penalty", penalty, torch.Size(), weight.dtype)
        _check_finite(f"{name}.penalty", penalty)


def _check_finite(formula: str, value: Tensor | None) -> None:
    """ValueError if ``value``, which ``formula`` returned for the first scores and all weights, has NaN or infinity."""
    if value is not None and not bool(torch.isfinite(value).all()):
        raise ValueError(f"{formula} must return finite numbers, and with all weights kept it did not")


def _check_signature(method: Method, formula: str) -> None:
    """ValueError unless the ``formula`` of ``method`` takes the arguments that it is called with."""
    own, ours = getattr(type(method), formula), getattr(Method, formula)
    if own is ours:
        return
    wanted = inspect.signature(ours).parameters.values()
    named = [parameter.name for parameter in wanted if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    try:
        inspect.signature(own).bind(*[None] * (len(wanted) - len(named)), **dict.fromkeys(named))
    except TypeError as error:
        arguments = ", ".join(parameter.name for parameter in wanted if parameter.name not in named)
        call = f"{formula}({arguments}{', *, ' if named else ''}{', '.join(named)})"
        raise ValueError(f"{type(method).__name__}.{formula} must be defined as {call}: {error}") from error


def _check_pattern(name: str, pattern: object) -> None:
    shares = pattern if isinstance(pattern, tuple) else ()
    if len(shares) != 2 or not all(is_number(share) and 0 <= share < 1 for share in shares):
        raise ValueError(f"{name}.pattern must be None or two shares in [0, 1), pruned and kept, and is {pattern!r}")


def _check_sample(formula: str, drawn: object, weight: Tensor) -> None:
    if drawn is None:
        return
    if not isinstance(drawn, tuple) or len(drawn) != 2:
        raise ValueError(f"{formula} must return None, or a mask and its slope, and returned {_kind(drawn)}")
    for part in drawn:
        if not isinstance(part, Tensor) or part.shape != weight.shape:
            raise ValueError(
                f"{formula} must return a mask and its slope of the shape {tuple(weight.shape)}, and returned "
                f"{_kind(part)}"
            )


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
