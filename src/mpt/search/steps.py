"""Counts optimizer steps by forwards, and lets a method change weights or scores between them.

The change is :meth:`mpt.Method.update`. :class:`Updates` calls it from a hook on the network, in any training loop:

* a forward counts if the network is in training mode and gradients are enabled;
* :func:`mpt.start_epoch` starts the count again and says how many forwards make one step (``accumulate``);
* the hook runs before the hooks of a selection (:mod:`mpt.search.selection`), so masks follow from the changed scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mpt.search.layers import TicketLayer, ticket_layers
from mpt.search.methods import Method

if TYPE_CHECKING:
    from mpt.search.conversion import Conversion


class Steps:
    """Counts the optimizer steps of an epoch by the forwards in training; ``parts`` forwards make one step."""

    def __init__(self) -> None:
        self.start_epoch(parts=1)

    def start_epoch(self, *, parts: int) -> None:
        """Count from 0 again, with ``parts`` forwards per step."""
        self.forwards, self.parts = 0, parts

    def begin(self, net: nn.Module) -> int | None:
        """Count a forward of ``net``; the number, from 0, of the step that it begins, or None if it begins none."""
        if not net.training or not torch.is_grad_enabled():
            return None
        step, part = divmod(self.forwards, self.parts)
        self.forwards += 1
        return step if part == 0 else None


class Updates:
    """Calls :meth:`mpt.Method.update` before the first forward of each step in training, and before any selection."""

    def __init__(self, net: nn.Module) -> None:
        self.steps = Steps()
        self._hook = net.register_forward_pre_hook(self._before_forward, prepend=True)

    def remove(self) -> None:
        """Remove the hook from the network."""
        self._hook.remove()

    def _before_forward(self, net: nn.Module, _: Any) -> None:
        if torch.compiler.is_compiling():
            untraced = torch.compiler.disable(_update)  # type: ignore[no-untyped-call]
            untraced(net, self.steps)  # breaks the graph: dynamo must not trace the update
        else:
            _update(net, self.steps)


def _update(net: nn.Module, steps: Steps) -> None:
    """Count a forward of ``net``; if it begins a step, call the method's update."""
    step = steps.begin(net)
    if step is None:
        return
    conversion: Conversion = net.conversion  # type: ignore[assignment]
    layers: dict[int, tuple[str, TicketLayer]] = {}  # by the identity of the weight: tied layers come once
    for name, layer in ticket_layers(net).items():
        layers.setdefault(id(layer.weight), (name, layer))
    epoch, seed = conversion.epoch or 0, conversion.seed or 0
    with torch.no_grad():
        conversion.method.update(dict(layers.values()), seed=seed, epoch=epoch, step=step)


def attach_updates(net: nn.Module, method: Method) -> None:
    """Have ``method.update`` called between the steps of ``net``, if the method defines one."""
    if type(method).update is not Method.update:
        net.updates = Updates(net)  # type: ignore[assignment]
