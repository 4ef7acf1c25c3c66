"""What a method's formulas return is checked once, at conversion, rather than by torch in the first step."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from contextlib import suppress

import torch
from torch import Tensor, nn

from mpt.search.layers import TicketLayer, ticket_layers
from mpt.search.methods import Method
from mpt.search.probe import generators_kept
from mpt.values import is_number

FORMULAS = ("importance", "mask", "gain", "source", "sample", "ticket_weight", "score_gradient", "penalty", "update")
_CAST = {torch.float16, torch.bfloat16, torch.float32}  # autocast turns one into another
_FLOATS = {*_CAST, torch.float64}


class FormulaError(ValueError):
    """A formula returned what no layer can compute with."""


@torch.no_grad()
def check_formulas(net: nn.Module, method: Method, *, seed: int | None, probed: bool = True) -> None:
    """ValueError if a formula of ``method`` returns what no layer of ``net`` can compute with.

    The first layer is tried, on copies: a method may keep a state. The formulas of :class:`mpt.Method` itself are not.
    No global generator moves. A formula that fails is left to the forward, whose error names the line.

    Args:
        net: a network with ticket layers.
        method: theirs.
        seed: what the network was drawn from.
        probed: whether a forward follows, outside of autocast unless that is on now.

    Raises:
        ValueError: besides, the method draws weights again (:class:`mpt.IteRand`) and there is no ``seed``.
    """
    name, layers = type(method).__name__, ticket_layers(net)
    if not layers:
        return
    if seed is None and method.draws_weights:
        raise ValueError(
            f"{name} draws weights again, and with seed=None they are the backbone's, of no distribution: give a seed"
        )
    own = [formula for formula in FORMULAS if getattr(type(method), formula) is not getattr(Method, formula)]
    if "ticket_weight" not in own:
        raise ValueError(f"{name} must define ticket_weight(self, weight, mask, gain)")
    for formula in own:
        _check_signature(method, formula)
    with generators_kept(net):
        method = _copy(method)
        if "penalty" in own:
            _check_penalty(method, layers)
        layer = next(iter(layers.values()))
        strict = probed and not torch.is_autocast_enabled(layer.weight.device.type)
        try:
            _check_layer(method, own, layer, cast=set() if strict else _CAST)
        except FormulaError:
            raise
        except Exception:  # whatever a method of one's own raises
            return


def _copy(method: Method) -> Method:
    """A copy of ``method`` that shares with it what cannot be copied, such as a lock."""
    try:
        return copy.deepcopy(method)
    except Exception:  # of whatever it holds
        twin = copy.copy(method)
    for name, value in vars(method).items():
        with suppress(Exception):
            object.__setattr__(twin, name, copy.deepcopy(value))  # a method is frozen
    return twin


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


def _check_layer(method: Method, own: list[str], layer: TicketLayer, *, cast: set[torch.dtype]) -> None:
    """Call the formulas of ``method`` as ``layer`` does, and check what those in ``own`` return."""
    weight, scores = layer.weight.detach().clone(), layer.scores.detach().clone()
    name, shape, dtype = type(method).__name__, weight.shape, weight.dtype
    source = method.source(weight, scores)
    _check_tensor(f"{name}.source", source, shape, dtype)
    if "importance" in own:
        importance = method.importance(scores)
        _check_tensor(f"{name}.importance", importance, shape, dtype, *_FLOATS)
        ranked = layer.num_kept < weight.numel() and method.selection != "threshold"
        if ranked and bool(importance.isnan().any()):
            raise FormulaError(f"{name}.importance must return numbers that have an order, and returned NaN among them")
    mask = method.mask(scores, kept=layer.num_kept)
    _check_tensor(f"{name}.mask", mask, shape, torch.bool)
    gain = method.layer_gain(source, mask, axis=layer.channels)
    if "gain" in own:
        if not _broadcasts(gain, shape):
            raise FormulaError(
                f"{name}.gain must return one number, or one for each output channel in a shape that broadcasts to the "
                f"weight's {tuple(shape)}, as (O, 1, 1, 1) does, and returned {_kind(gain)}"
            )
        _check_finite(f"{name}.gain", gain, mask)
    if "score_gradient" in own:
        slope = method.score_gradient(torch.zeros_like(weight), source, scores, gain)
        _check_tensor(f"{name}.score_gradient", slope, shape, dtype, *_FLOATS)
    ticket_weight = method.ticket_weight(source, mask, gain)
    _check_tensor(f"{name}.ticket_weight", ticket_weight, shape, dtype, *(cast if dtype in cast else ()))
    _check_finite(f"{name}.ticket_weight", ticket_weight, mask)
    if "sample" in own:
        with torch.enable_grad():
            drawn = method.sample(scores.requires_grad_())
        if isinstance(drawn, Tensor) or drawn:  # None and () are none
            _check_sample(method, drawn, source, axis=layer.channels)


def _check_sample(method: Method, drawn: object, source: Tensor, *, axis: int) -> None:
    """FormulaError unless the mask that ``method`` drew, and its slope, fit ``source``."""
    formula, shape = f"{type(method).__name__}.sample", source.shape
    if not isinstance(drawn, (tuple, list)) or len(drawn) != 2:
        raise FormulaError(f"{formula} must return None, or a mask and its slope, and returned {_kind(drawn)}")
    mask: Tensor
    mask, slope = drawn
    for part in [mask] if slope is None else [mask, slope]:
        if not _broadcasts(part, shape):
            raise FormulaError(
                f"{formula} must return a mask and its slope, tensors that broadcast to the weight's {tuple(shape)}, "
                f"and returned {_kind(part)}"
            )
    if mask.shape == shape and mask.dtype == torch.bool:
        return
    needed = f"{formula} must return a bool mask of the shape {tuple(shape)}, and returned {_kind(mask)}, with which"
    try:
        narrow, whole = (
            method.ticket_weight(source, m, method.layer_gain(source, m, axis=axis)) for m in (mask, mask.expand(shape))
        )
    except Exception as error:  # whatever a method of one's own raises
        raise FormulaError(f"{needed} its ticket_weight fails") from error
    if not torch.allclose(narrow, whole, equal_nan=True):
        raise FormulaError(f"{needed} the gain is another")


def _check_penalty(method: Method, layers: Mapping[str, TicketLayer]) -> None:
    formula, penalty = f"{type(method).__name__}.penalty", method.penalty(layers)
    if penalty is not None:
        value = torch.tensor(float(penalty)) if is_number(penalty) else penalty
        _check_tensor(formula, value, torch.Size(), next(iter(layers.values())).weight.dtype, *_FLOATS)
        _check_finite(formula, value)


def _check_signature(method: Method, formula: str) -> None:
    """ValueError unless the ``formula`` of ``method`` takes the arguments that it is called with.

    One that does not say what it takes (written in C, or wrapped) passes.
    """
    ours = inspect.signature(getattr(Method, formula))
    bare = [parameter.replace(annotation=parameter.empty) for parameter in ours.parameters.values()]
    named = [parameter.name for parameter in bare if parameter.kind is parameter.KEYWORD_ONLY]
    try:
        own = inspect.signature(getattr(method, formula), follow_wrapped=False)
        own.bind(*bare[1 : len(bare) - len(named)], **dict.fromkeys(named))  # without self
    except ValueError:  # it has no signature
        return
    except TypeError as error:
        call = f"{formula}{inspect.Signature(bare)}"
        raise ValueError(f"{type(method).__name__}.{formula} must be defined as {call}: {error}") from error


def _check_tensor(formula: str, value: object, shape: torch.Size, *dtypes: torch.dtype) -> None:
    """FormulaError unless ``value``, which ``formula`` returned, is a tensor of ``shape`` and of one of ``dtypes``."""
    if not isinstance(value, Tensor) or value.shape != shape or value.dtype not in dtypes:
        raise FormulaError(
            f"{formula} must return a tensor of the shape {tuple(shape)} of {dtypes[0]}, and returned {_kind(value)}"
        )


def _check_finite(formula: str, value: Tensor, mask: Tensor | None = None) -> None:
    if value.layout == torch.strided and not bool(torch.isfinite(value).all()):
        when = f"with {int(mask.sum())} of {mask.numel()} weights kept" if mask is not None else "for the first scores"
        raise FormulaError(f"{formula} must return finite numbers, and {when} it did not")


def _kind(value: object) -> str:
    return f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _broadcasts(value: object, shape: torch.Size) -> bool:
    try:
        return isinstance(value, Tensor) and value.expand(shape).shape == shape
    except RuntimeError:
        return False
