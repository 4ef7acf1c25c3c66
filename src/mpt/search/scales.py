"""Scales that a backbone starts near zero because it will train them, where a search freezes them.

LayerScale (ConvNeXt, CaiT), zero-initialised norms (Swin V2 CR) and skip gains begin at 0 to 1e-5. Frozen there, they
cut layers off: what those compute hardly changes the output, and their scores get next to no gradient. So a network
drawn from a seed starts such scales at 1, as batch-norm's (:func:`start_at_one`).

A scale is a parameter that multiplies. One forward pass shows which do: a mode of torch follows each parameter that is
near zero through functions of it alone (a view, ``tanh``) to an elementwise product with a tensor, or to the weight of
a normalisation. A shift, such as a bias, is near zero too, but is added.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mpt.search.layers import ticket_layers
from mpt.search.trace import tensors_in

NEAR_ZERO = 0.01  # a parameter whose entries are all smaller is near zero
_PRODUCTS = {"mul", "mul_", "__mul__", "__rmul__", "__imul__", "multiply", "multiply_"}
_NORMS = {"layer_norm": 2, "group_norm": 2, "rms_norm": 2, "batch_norm": 3, "instance_norm": 3}  # place of the weight
_FACTORS = {name: [(1, "tensor1"), (2, "tensor2")] for name in ("addcmul", "addcmul_")}
_FACTORS |= {name: [(place, "weight")] for name, place in _NORMS.items()}


def start_at_one(net: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Set the scales of ``net`` that are near zero to 1; see the head of this file."""
    with torch.no_grad():
        for name in scales_near_zero(net, inputs):
            net.get_parameter(name).fill_(1)


def scales_near_zero(net: nn.Module, inputs: tuple[Tensor, ...]) -> list[str]:
    """Names of the parameters of ``net``, not searched, that multiply in its forward pass and are near zero."""
    searched = {id(p) for layer in ticket_layers(net).values() for p in (layer.weight, layer.scores)}
    small = {
        name: parameter
        for name, parameter in net.named_parameters()
        if id(parameter) not in searched and parameter.numel() and _is_near_zero(parameter)
    }
    if not small:
        return []
    mode = _Products(small)
    with torch.no_grad(), mode:
        net(*inputs)
    return [name for name in small if name in mode.found]


def _is_near_zero(x: Tensor) -> bool:
    return x.is_floating_point() and float(x.detach().abs().max()) < NEAR_ZERO


class _Products(TorchFunctionMode):
    """Notes in ``found`` which of ``parameters`` multiply something in a forward pass while they are near zero."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__()
        self.found: set[str] = set()
        self._names = {id(parameter): name for name, parameter in parameters.items()}  # of functions of it alone, too
        self._alive: list[Tensor] = []  # keeps tensors alive, so that no id is used twice

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs, out = list(tensors_in([args, kwargs])), func(*args, **kwargs)
        names = {self._names.get(id(x)) for x in inputs}
        name = getattr(func, "__name__", "")
        if names == {None} or not names:
            return out
        if None not in names and len(names) == 1:
            for x in tensors_in(out):
                self._names[id(x)] = next(iter(names))  # type: ignore[assignment]
                self._alive.append(x)
            return out
        if name in _PRODUCTS:
            self._note(inputs)
        for place, key in _FACTORS.get(name, ()):
            self._note([kwargs[key] if key in kwargs else args[place] if len(args) > place else None])
        return out

    def _note(self, factors: list[Any]) -> None:
        self.found |= {self._names[id(x)] for x in factors if id(x) in self._names and _is_near_zero(x)}
