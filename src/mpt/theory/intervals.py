"""Bounds on what flows through a network: of the target, and of how far the constructed network can be from it.

For inputs in a box, every value x of the target lies in [low, high], and the constructed network's value x^ differs by
at most ``error``. Both are passed through a symbolic forward (torch.fx), in float64, operation by operation:

    W x + b      the target:   W mid + b +- |W| rad,  with a term for rounding
                 the error:    |dP x+ - dN x-| + |dP| rad+ + |dN| rad- + max(|P|, |N|) error + |db|
    relu, pools  low and high as they are; error by the Lipschitz constant 1, at most relu(high + error)
    flatten ...  shapes only

P and N are the constructed layer's effective weights for x >= 0 and x < 0 (:mod:`mpt.theory.effective`); dP = P - W and
dN = N - W, and x = x+ - x- is split by its sign. At a single input rad is 0 and the first term keeps its cancellations.

A matrix product of k terms is computed with a relative error below ``(k + 8) 2^-51`` of the sum of magnitudes, which is
added. So the bounds hold for the real-number function of the float32 weights; a float32 forward adds its own rounding.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from mpt.theory.effective import Effective
from mpt.theory.target import NORMS, Target, affine_of

UNIT = 2.0**-51
SAME = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
RELU_FUNCTIONS = (F.relu, torch.relu, torch.relu_)
MAX_POOLS, AVERAGE_POOLS = (nn.MaxPool2d, nn.AdaptiveMaxPool2d), (nn.AvgPool2d, nn.AdaptiveAvgPool2d)
MAX_FUNCTIONS = (F.max_pool2d, torch.max_pool2d, F.adaptive_max_pool2d)
AVERAGE_FUNCTIONS = (F.avg_pool2d, F.adaptive_avg_pool2d, torch.mean)
SHAPE_METHODS = ("view", "reshape", "flatten", "contiguous", "squeeze", "unsqueeze", "permute", "transpose")


@dataclass(frozen=True)
class State:
    """Bounds on one value: tensors of one shape, float64.

    Attributes:
        low, high: of the target.
        error: of the constructed network's value against the target's.
        nonneg: neither network's value is ever negative.
    """

    low: Tensor
    high: Tensor
    error: Tensor
    nonneg: bool

    def each(self, function: Callable[[Tensor], Tensor], *, slack: float = 0.0) -> State:
        """``function`` of all three; ``slack`` is the relative rounding of what it computes."""
        low, high, error = map(function, (self.low, self.high, self.error))
        if slack:
            wide = slack * torch.maximum(low.abs(), high.abs())
            low, high, error = low - wide, high + wide, error * (1 + slack) + wide
        return replace(self, low=low, high=high, error=error)


def start(low: Tensor, high: Tensor) -> State:
    """The state of a network's input between ``low`` and ``high``."""
    low, high = low.double(), high.double()
    return State(low, high, torch.zeros_like(low), bool((low >= 0).all()))


def run(
    target: Target, state: State, effective: Mapping[str, Effective] | None = None
) -> tuple[State, dict[str, State]]:
    """Pass ``state`` through the target: the state of the output, and those of the inputs of the layers by name.

    Args:
        target: with a graph.
        state: of the input, with the batch dimension.
        effective: the constructed layers; None to bound the target alone.

    Raises:
        ValueError: an operation that has no rule, by name.
    """
    assert target.graph is not None
    interpreter = _Interpreter(target.graph, target, effective)
    with torch.no_grad():
        output = interpreter.run(state)
    if not isinstance(output, State):
        raise ValueError("the certificate is of networks with one output, and this one returns several or none")
    return output, interpreter.inputs


class _Interpreter(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule, target: Target, effective: Mapping[str, Effective] | None) -> None:
        super().__init__(graph)
        self.extra_traceback = False
        self.layers, self.effective = target.layers, effective
        self.inputs: dict[str, State] = {}

    def call_module(self, name: Any, args: Any, kwargs: Any) -> Any:
        module, state = self.fetch_attr(name), args[0]
        if name in self.layers:
            before = self.inputs.get(name)
            self.inputs[name] = state if before is None or state.nonneg <= before.nonneg else before
            return affine(module, state, self.effective[name] if self.effective else None)
        if isinstance(module, nn.ReLU):
            return relu(state)
        if isinstance(module, SAME):
            return state
        if isinstance(module, MAX_POOLS):
            return state.each(module)
        if isinstance(module, AVERAGE_POOLS):
            return state.each(module, slack=_slack(state))
        if isinstance(module, (nn.Flatten, nn.Unflatten)):
            return state.each(module)
        if isinstance(module, NORMS):
            return scale(module, state)
        raise unknown(type(module).__name__, name)

    def call_function(self, function: Any, args: Any, kwargs: Any) -> Any:
        if args and isinstance(args[0], (tuple, list)) and any(isinstance(x, State) for x in args[0]):
            if function is torch.cat and all(isinstance(x, State) for x in args[0]):
                return join(args[0], *args[1:], **kwargs)
            raise unknown(getattr(function, "__name__", str(function)), "the forward")
        if not any(isinstance(x, State) for x in (*args, *kwargs.values())):
            return function(*args, **kwargs)
        state = args[0]
        if not isinstance(state, State):
            raise unknown(getattr(function, "__name__", str(function)), "the forward")
        if function is operator.getitem:
            return state.each(lambda x: x[args[1]])
        if function in RELU_FUNCTIONS:
            return relu(state)
        if function is torch.flatten:
            return state.each(lambda x: torch.flatten(x, *args[1:], **kwargs))
        if function in (*MAX_FUNCTIONS, *AVERAGE_FUNCTIONS):
            slack = _slack(state) if function in AVERAGE_FUNCTIONS else 0.0
            return state.each(lambda x: function(x, *args[1:], **kwargs), slack=slack)
        if function in (F.dropout, F.dropout2d):
            return state
        if function in (operator.add, operator.iadd, torch.add) and all(isinstance(x, State) for x in args):
            return add(*args)
        if function is getattr and args[1] == "shape":
            return state.low.shape
        raise unknown(getattr(function, "__name__", str(function)), "the forward")

    def call_method(self, name: Any, args: Any, kwargs: Any) -> Any:
        state, rest = args[0], args[1:]
        if not isinstance(state, State):
            return getattr(state, name)(*rest, **kwargs)
        if name in ("relu", "relu_"):
            return relu(state)
        if name == "size":
            return state.low.size(*rest, **kwargs)
        if name in SHAPE_METHODS:
            return state.each(lambda x: getattr(x, name)(*rest, **kwargs))
        if name == "mean":
            return state.each(lambda x: x.mean(*rest, **kwargs), slack=_slack(state))
        if name in ("add", "add_") and isinstance(rest[0], State):
            return add(state, rest[0])
        raise unknown(name, "the forward")

    def get_attr(self, name: Any, args: Any, kwargs: Any) -> Any:
        raise ValueError(f"the forward uses {name} directly: the certificate is of Linear, Conv2d and ReLU")


def unknown(what: str, where: str) -> ValueError:
    """The error for an operation without a rule."""
    return ValueError(
        f"there is no interval rule for {what} ({where}): the theorems and the certificate are of ReLU networks"
    )


def _slack(state: State) -> float:
    """Relative rounding of a mean of at most all entries of a value."""
    return (state.low[0].numel() + 8) * UNIT


def relu(state: State) -> State:
    """``|relu(x^) - relu(x)| <= min(error, relu(high + error))``."""
    reach = (state.high + state.error).clamp(min=0) * (1 + UNIT)
    return State(state.low.clamp(min=0), state.high.clamp(min=0), torch.minimum(state.error, reach), True)


def add(a: State, b: State) -> State:
    """The sum of two values."""
    low, high, error = a.low + b.low, a.high + b.high, a.error + b.error
    wide = UNIT * (a.low.abs() + b.low.abs() + a.high.abs() + b.high.abs())
    return State(low - wide, high + wide, error * (1 + UNIT) + wide, a.nonneg and b.nonneg)


def join(states: Sequence[State], dim: int = 0) -> State:
    """Several values as one (``torch.cat``)."""
    low, high, error = (torch.cat([getattr(s, name) for s in states], dim) for name in ("low", "high", "error"))
    return State(low, high, error, all(s.nonneg for s in states))


def scale(norm: nn.Module, state: State) -> State:
    """A batch-norm in evaluation that is not folded: both networks have it."""
    factor, shift = (x.view(1, -1, *[1] * (state.low.dim() - 2)) for x in affine_of(norm))
    ends = state.low * factor, state.high * factor
    wide = 8 * UNIT * (torch.maximum(ends[0].abs(), ends[1].abs()) + shift.abs())
    low, high = torch.minimum(*ends) + shift - wide, torch.maximum(*ends) + shift + wide
    return State(low, high, state.error * factor.abs() * (1 + UNIT) + wide, False)


def product(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    """``W x`` of a linear layer or a convolution, without bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    return F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation)


def affine(layer: Any, state: State, built: Effective | None) -> State:
    """A layer of the target, and the constructed layer in its place."""
    weight, unit = layer.weight, (layer.weight[0].numel() + 8) * UNIT
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias
    bias = bias if isinstance(layer, nn.Linear) else bias.view(-1, 1, 1)
    middle, radius = _ball(state.low, state.high)
    largest = torch.maximum(state.low.abs(), state.high.abs())
    center = product(layer, middle, weight) + bias
    wide = product(layer, radius, weight.abs()) + unit * (product(layer, largest, weight.abs()) + bias.abs())
    low, high = center - wide, center + wide
    if built is None:
        return State(low, high, torch.zeros_like(low), False)
    shift = (built.bias - bias.flatten()).abs().view_as(bias) * (1 + UNIT)
    if built.positive is None:  # no effective weights: bounds of the layers themselves
        ends = _through(layer, state, built)
        error = torch.maximum(ends[1] - low, high - ends[0]) + shift
        return State(low, high, error * (1 + UNIT), False)
    p, n = built.positive, built.negative
    most = p.abs() if state.nonneg else torch.maximum(p.abs(), n.abs())
    middle, radius = _ball(state.low.clamp(min=0), state.high.clamp(min=0))
    off, around = product(layer, middle, p - weight), product(layer, radius, (p - weight).abs())
    if not state.nonneg:
        middle, radius = _ball((-state.high).clamp(min=0), (-state.low).clamp(min=0))
        off = off - product(layer, middle, n - weight)
        around = around + product(layer, radius, (n - weight).abs())
    rounding = unit * product(layer, largest + state.error, most + weight.abs())
    rounding = rounding + product(layer, largest + state.error, built.slack)
    error = off.abs() + around + product(layer, state.error, most) + rounding + shift
    return State(low, high, error * (1 + unit), False)


def _ball(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and radius of intervals, so that the ball holds them."""
    middle = (low + high) / 2
    return middle, torch.maximum(high - middle, middle - low) * (1 + UNIT)


def _through(layer: Any, state: State, built: Effective) -> tuple[Tensor, Tensor]:
    """Bounds of what the constructed layer computes, by interval arithmetic through its own layers, without bias."""
    low, high = state.low - state.error, state.high + state.error
    if state.nonneg:
        low = low.clamp(min=0)
    for at, weight in enumerate(built.chain):
        last = at == len(built.chain) - 1
        inner = product if last else _inner
        middle, radius = _ball(low, high)
        unit = (weight[0].numel() + 8) * UNIT
        center = inner(layer, middle, weight)
        largest = torch.maximum(low.abs(), high.abs())
        wide = inner(layer, radius, weight.abs()) + unit * inner(layer, largest, weight.abs())
        low, high = center - wide, center + wide
        if not last:
            low, high = low.clamp(min=0), high.clamp(min=0)
    return low, high


def _inner(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight) if isinstance(layer, nn.Linear) else F.conv2d(x, weight)
