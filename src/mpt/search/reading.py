"""Layers whose weight another module reads, as ``F.linear(x, self.qkv.weight)`` in attention, instead of calling them.

During a forward of the module that reads it, such a layer's ``weight`` is its ticket weight: hooks put it there before
the forward and take it away afterwards. Then a search reaches the layer although nothing calls it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


class Reading:
    """The hooks on one module; ``names`` are those of its own layers whose weight it reads."""

    def __init__(self, module: nn.Module, names: list[str]) -> None:
        self.names = names
        self._hooks = (
            module.register_forward_pre_hook(self._before_forward),
            module.register_forward_hook(self._after_forward, always_call=True),
        )

    def remove(self) -> None:
        """Remove the hooks from the module."""
        for hook in self._hooks:
            hook.remove()

    def _before_forward(self, module: nn.Module, _: Any) -> None:
        for name in self.names:
            layer: Any = getattr(module, name)
            layer.__dict__["weight"] = layer.ticket_weight()  # found before the parameter of that name

    def _after_forward(self, module: nn.Module, *_: Any) -> None:
        for name in self.names:
            getattr(module, name).__dict__.pop("weight", None)


def attach_reading(net: nn.Module, names: Iterable[str]) -> None:
    """Let the modules that hold the ticket layers ``names`` of ``net`` read ticket weights."""
    parents: dict[str, list[str]] = {}
    for parent, _, name in (path.rpartition(".") for path in names):
        parents.setdefault(parent, []).append(name)
    for parent, children in parents.items():
        module = net.get_submodule(parent)
        module._reading = Reading(module, children)  # type: ignore[assignment]


def detach_reading(net: nn.Module) -> None:
    """Undo :func:`attach_reading`."""
    for module in net.modules():
        if "_reading" in module.__dict__:
            module.__dict__.pop("_reading").remove()
