"""What a method's formulas return is checked once, at conversion, rather than by torch in the first step."""

from __future__ import annotations

import copy
import inspect

import numpy as np
import torch
from torch import Tensor, nn

from mpt.search.layers import TicketLayer, ticket_layers
from mpt.search.methods import Method
from mpt.search.probe import generators_kept
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


_CAST = {torch.float16, torch.bfloat16, torch.float32}  # autocast turns one into another


@torch.no_grad()
def check_formulas(net: nn.Module, method: Method, *, seed: int | None, probed: bool = True) -> None:
    """ValueError if a formula of ``method`` returns what no layer of ``net`` can compute with.

    The first layer is tried. The formulas of :class:`mpt.Method` itself are not. No global generator moves.

    Args:
        net: a network with ticket layers.
        method: theirs.
        seed: what the network was drawn from.
        probed: whether a forward follows, outside of autocast unless that is on now.

    Raises:
        ValueError: besides, the method draws weights again (:class:`mpt.IteRand`) and there is no ``seed``.
    """
    name, layers = type(method).__name__, ticket_layers(net)
    layer = next(iter(layers.values()), None)
    if layer is None:
        return
    if seed is None and method.draws_weights:
        raise ValueError(
            f"{name} draws weights again, and with seed=None they are the backbone's, of no distribution: give a seed"
        )
    for formula in FORMULAS:
        _check_signature(method, formula)
    with generators_kept(net):
        mask = _check_selection(method, layer)
        strict = probed and not torch.is_autocast_enabled(layer.weight.device.type)
        _check_forward(method, layer, mask, dtypes={layer.weight.dtype} if strict else _CAST)
        if type(method).penalty is not Method.penalty and (penalty := method.penalty(layers)) is not None:
            _check_like(f"{name}.penalty", penalty, torch.Size(), layer.weight.dtype)
            _check_finite(f"{name}.penalty", penalty, "for the first scores")


def check_pattern(method: Method) -> None:
    """ValueError unless the pattern of ``method`` is two shares that a ticket's file can hold, or None."""
    shares = method.pattern
    if shares is not None and not (
        isinstance(shares, (tuple, list))
        and len(shares) == 2
        and all(is_number(share) and 0 <= share < 1 for share in shares)
    ):
        name = type(method).__name__
        raise ValueError(f"{name}.pattern must be None or two shares in [0, 1), pruned and kept, and is {shares!r}")


def _check_selection(method: Method, layer: TicketLayer) -> Tensor | None:
    """Check the formulas that need scores, weights and a mask of all weights; the mask if the method has its own."""
    name, who, weight, scores, mask = type(method).__name__, type(method), layer.weight, layer.scores, None
    source = method.source(weight, scores)
    _check_like(f"{name}.source", source, weight.shape, weight.dtype)
    if who.importance is not Method.importance:
        importance = method.importance(scores)
        _check_like(f"{name}.importance", importance, weight.shape, scores.dtype)
        ranked = layer.num_kept < weight.numel() and method.selection != "threshold"
        if ranked and bool(importance.isnan().any()):
            raise ValueError(f"{name}.importance must return numbers that have an order, and returned NaN among them")
    if who.mask is not Method.mask:
        mask = method.mask(scores, kept=layer.num_kept)
        _check_like(f"{name}.mask", mask, weight.shape, torch.bool)
    gain = method.gain(source, torch.ones_like(weight, dtype=torch.bool))
    if who.gain is not Method.gain:
        if not _broadcasts(gain, weight):
            raise ValueError(
                f"{name}.gain must return one number, or one for each output channel in a shape that broadcasts to the "
                f"weight's {tuple(weight.shape)}, as (O, 1, 1, 1) does, and returned {_kind(gain)}"
            )
        _check_finite(f"{name}.gain", gain, "with all weights kept")
    if who.score_gradient is not Method.score_gradient:
        slope = method.score_gradient(torch.zeros_like(weight), source, scores, gain)
        _check_like(f"{name}.score_gradient", slope, weight.shape, weight.dtype)
    return mask


def _check_forward(method: Method, layer: TicketLayer, mask: Tensor | None, *, dtypes: set[torch.dtype]) -> None:
    """Check what a forward computes with, on copies: a method may keep a state between its forwards.

    A formula that fails is left to the forward, which has other scores and gradients.
    """
    name, n, kept = type(method).__name__, layer.weight.numel(), layer.num_kept
    weight, scores = layer.weight.detach().clone(), layer.scores.detach().clone()
    try:
        method = copy.deepcopy(method)
        mask = method.mask(scores, kept=kept) if mask is None else mask
        ticket_weight = _ticket_weight(method, layer, weight, scores, mask)
    except NotImplementedError:
        raise
    except Exception:  # whatever a method of one's own raises
        return
    cast = isinstance(ticket_weight, Tensor) and {ticket_weight.dtype, weight.dtype} <= dtypes
    _check_like(f"{name}.ticket_weight", ticket_weight, weight.shape, ticket_weight.dtype if cast else weight.dtype)
    _check_finite(f"{name}.ticket_weight", ticket_weight, f"with {kept} of {n} weights kept")
    if type(method).sample is Method.sample:
        return
    try:
        with torch.enable_grad():
            drawn = method.sample(scores.requires_grad_())
    except Exception:  # whatever a method of one's own raises
        return
    if drawn is not None and (isinstance(drawn, Tensor) or drawn):
        mask = _check_sample(f"{name}.sample", drawn, weight)
        if mask.shape != weight.shape or mask.dtype != torch.bool:
            needed = (
                f"{name}.sample must return a bool mask of the shape {tuple(weight.shape)}, and returned {_kind(mask)}"
            )
            try:
                narrow = _ticket_weight(method, layer, weight, scores, mask)
                whole = _ticket_weight(method, layer, weight, scores, mask.expand_as(weight))
            except Exception as error:  # whatever a method of one's own raises
                raise ValueError(f"{needed}, with which its ticket_weight fails") from error
            if not torch.allclose(narrow, whole, equal_nan=True):
                raise ValueError(f"{needed}, with which the gain is another")


def _ticket_weight(method: Method, layer: TicketLayer, weight: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    with torch.no_grad():
        source = method.source(weight, scores)
        return method.ticket_weight(source, mask, method.layer_gain(source, mask, axis=layer.channels))


def _check_finite(formula: str, value: Tensor, when: str) -> None:
    """ValueError if ``value``, which ``formula`` returned, has NaN or infinity."""
    if value.layout == torch.strided and not bool(torch.isfinite(value).all()):
        raise ValueError(f"{formula} must return finite numbers, and {when} it did not")


def _check_signature(method: Method, formula: str) -> None:
    """ValueError unless the ``formula`` of ``method`` takes the arguments that it is called with.

    One that does not say what it takes (written in C, or wrapped) passes.
    """
    ours = getattr(Method, formula)
    if getattr(type(method), formula) is ours:
        return
    wanted = inspect.signature(ours).parameters.values()
    named = [parameter.name for parameter in wanted if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    try:
        own = inspect.signature(getattr(method, formula), follow_wrapped=False)
        own.bind(*[None] * (len(wanted) - len(named) - 1), **dict.fromkeys(named))  # without self
    except ValueError:  # it has no signature
        return
    except TypeError as error:
        arguments = ", ".join(parameter.name for parameter in wanted if parameter.name not in named)
        call = f"{formula}({arguments}{', *, ' if named else ''}{', '.join(named)})"
        raise ValueError(f"{type(method).__name__}.{formula} must be defined as {call}: {error}") from error


def _check_sample(formula: str, drawn: object, weight: Tensor) -> Tensor:
    """The mask that ``formula`` drew; ValueError unless that and its slope broadcast to ``weight``."""
    if not isinstance(drawn, (tuple, list)) or len(drawn) != 2:
        raise ValueError(f"{formula} must return None, or a mask and its slope, and returned {_kind(drawn)}")
    mask: Tensor
    mask, slope = drawn
    for part in [mask] if slope is None else [mask, slope]:
        if not _broadcasts(part, weight):
            raise ValueError(
                f"{formula} must return a mask and its slope, tensors that broadcast to the weight's "
                f"{tuple(weight.shape)}, and returned {_kind(part)}"
            )
    return mask


def _check_like(formula: str, value: object, shape: torch.Size, dtype: torch.dtype) -> None:
    """ValueError unless ``value``, which ``formula`` returned, is a tensor of this shape and type."""
    if not isinstance(value, Tensor) or value.shape != shape or value.dtype != dtype:
        raise ValueError(
            f"{formula} must return a tensor of the shape {tuple(shape)} of {dtype}, and returned {_kind(value)}"
        )


def _kind(value: object) -> str:
    return f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _broadcasts(value: object, weight: Tensor) -> bool:
    shape = tuple(weight.shape)
    try:
        return isinstance(value, Tensor) and np.broadcast_shapes(tuple(value.shape), shape) == shape
    except ValueError:
        return False
