"""Ticket layers that keep their ticket weight in evaluation: the layers of a network from a file.

A layer of a search computes its ticket weight in every forward, because its scores change in every step. The scores of
a ticket's network rarely change, so its layers compute the ticket weight once and keep it for the following forwards in
evaluation mode, which then cost what a plain layer's do. A kept ticket weight is dropped, and computed again, when

* the layer trains: a forward in training mode, or :meth:`torch.nn.Module.train`;
* any optimizer of the process has stepped (fused ones do not raise a tensor's version counter);
* the version or the memory of ``weight`` or ``scores`` has changed, or the method, selection or number kept;
* somebody has asked the layer for ``weight``, ``scores`` or its parameters, and might have written to their ``.data``,
  which no version counter notices.

One write goes unnoticed: through ``.data`` or a NumPy array that was taken before a forward and is written to after it.
Call ``net.train()`` or ``net.eval()`` after such a write.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from mpt.search.layer_ticket import LayerTicket, TicketWeight
from mpt.search.layers import (
    TicketConv1d,
    TicketConv2d,
    TicketConv3d,
    TicketConvTranspose1d,
    TicketConvTranspose2d,
    TicketConvTranspose3d,
    TicketLayer,
    TicketLinear,
    ticket_layers,
)

_STEPS: list[int] = []  # one entry, the optimizer steps of this process, once a network keeps ticket weights


class _KeptWeight(TicketWeight):
    """A ticket weight computed before, with the gradients of :class:`TicketWeight`."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, weight: Tensor, method: Any, ticket: LayerTicket, *_: Any) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(scores, weight, ticket.gain, None)
        ctx.method = method
        return ticket.ticket_weight.detach()


class Kept:
    """Mask, gain and ticket weight of a layer, and its state when they were computed; tied layers share one."""

    def __init__(self) -> None:
        self.ticket: LayerTicket | None = None
        self.state: tuple[Any, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        return {"ticket": None, "state": ()}  # a copy computes its own


class KeepingLayer(TicketLayer):
    """Mixin in front of a ticket layer; see the head of this file."""

    kept: Kept

    def __getattr__(self, name: str) -> Any:
        if name in ("weight", "scores"):
            self.kept.ticket = None
        return super().__getattr__(name)

    @property
    def _parameters(self) -> dict[str, Any]:  # type: ignore[override]
        self.kept.ticket = None
        return self.__dict__["_parameters"]  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> Any:
        self.kept.ticket = None
        return super().train(mode)

    def ticket_weight(self, dtype: torch.dtype | None = None) -> Tensor:
        if self.training or self.frozen_ticket is not None or not self._can_keep():
            return super().ticket_weight(dtype)
        ticket, parameters = self._keep(), self.__dict__["_parameters"]
        scores, latent = parameters["scores"], parameters["weight"]
        if torch.is_grad_enabled() and (scores.requires_grad or latent.requires_grad):
            weight: Tensor = _KeptWeight.apply(scores, latent, self.method, ticket, None, self.channels)
            return weight
        return ticket.ticket_weight

    def _computing_weight(self) -> Tensor:
        if self.training:
            return super()._computing_weight()
        return self.ticket_weight()  # without a look at weight, which would drop what is kept

    def ticket(self) -> LayerTicket:
        if self.training or self.frozen_ticket is not None or not self._can_keep():
            return super().ticket()
        return self._keep()

    def _keep(self) -> LayerTicket:
        ticket = self.kept.ticket
        if ticket is None or self.kept.state != self._state(ticket):
            ticket = self._compute_ticket()
            self.kept.ticket, self.kept.state = ticket, self._state(ticket)
        return ticket

    def _can_keep(self) -> bool:
        """Whether the layer's tensors are plain parameters, and not what torch.compile or torch.func puts there."""
        parameters = self.__dict__["_parameters"]
        plain = type(parameters["weight"]) is type(parameters["scores"]) is nn.Parameter
        return plain and not torch.compiler.is_compiling()

    def _state(self, ticket: LayerTicket) -> tuple[Any, ...]:
        """Differs whenever ``ticket`` may no longer be the layer's, as far as that is visible."""
        parameters = self.__dict__["_parameters"]
        weight, scores, kept = parameters["weight"], parameters["scores"], ticket.ticket_weight
        return (
            *(_STEPS[0], self.num_kept, self.method, self.selection),
            *(weight.data_ptr(), weight._version, scores.data_ptr(), scores._version, kept._version),
        )


class KeepingConv1d(KeepingLayer, TicketConv1d):
    """:class:`TicketConv1d` that keeps its ticket weight in evaluation."""


class KeepingConv2d(KeepingLayer, TicketConv2d):
    """:class:`TicketConv2d` that keeps its ticket weight in evaluation."""


class KeepingConv3d(KeepingLayer, TicketConv3d):
    """:class:`TicketConv3d` that keeps its ticket weight in evaluation."""


class KeepingConvTranspose2d(KeepingLayer, TicketConvTranspose2d):
    """:class:`TicketConvTranspose2d` that keeps its ticket weight in evaluation."""


class KeepingConvTranspose1d(KeepingLayer, TicketConvTranspose1d):
    """:class:`TicketConvTranspose1d` that keeps its ticket weight in evaluation."""


class KeepingConvTranspose3d(KeepingLayer, TicketConvTranspose3d):
    """:class:`TicketConvTranspose3d` that keeps its ticket weight in evaluation."""


class KeepingLinear(KeepingLayer, TicketLinear):
    """:class:`TicketLinear` that keeps its ticket weight in evaluation."""


KEEPING_LAYERS = {
    TicketConv1d: KeepingConv1d,
    TicketConv2d: KeepingConv2d,
    TicketConv3d: KeepingConv3d,
    TicketConvTranspose2d: KeepingConvTranspose2d,
    TicketConvTranspose1d: KeepingConvTranspose1d,
    TicketConvTranspose3d: KeepingConvTranspose3d,
    TicketLinear: KeepingLinear,
}


def keep_ticket_weights(net: nn.Module) -> None:
    """Let the ticket layers of ``net`` keep their ticket weights in evaluation, see the head of this file."""
    if not _STEPS:
        _STEPS.append(0)
        register_optimizer_step_post_hook(_count_step)
    shared: dict[int, Kept] = {}  # by the identity of the weight
    for layer in ticket_layers(net).values():
        layer.__dict__["kept"] = shared.setdefault(id(layer.weight), Kept())
        layer.__class__ = KEEPING_LAYERS[type(layer)]  # type: ignore[assignment, index]


def _count_step(*_: Any) -> None:
    _STEPS[0] += 1
