"""Fine-tuning a ticket: the mask stays, and the weights of some layers are trained straight through the sign.

With a layer's latent weights ``w`` and its fixed mask ``m``:

    ticket weight   b = g m sign(w)                  g = sum(m |w|) / sum(m), computed again in every forward
    backward        dL/dw = g m dL/db                straight through the sign, g a constant; pruned weights stay

so the result is a binary ticket again. A ticket with real kept weights (edge-popup), or with several masks
(multicoated), has ``b = m w`` and ``dL/dw = m dL/db``; its kept weights are real then.

**Where the latent weights start.** A file holds signs and a gain, but no magnitudes. The magnitudes come from the
random weights of the ticket's seed, drawn again: for a ticket straight from a search these are exactly the weights
among which it was found. A ticket without a seed takes the magnitudes that the argument ``seed`` draws. So does one
whose signs are not its seed's (:attr:`mpt.Ticket.weight_seed`): one fine-tuned before, or one whose method drew weights
again. The signs are the file's, and each layer's magnitudes are scaled so that its gain is the file's. The network
therefore starts as the ticket. A small weight turns its sign early and a large one late; with equal magnitudes
(``+-g``) all would turn late, and together.

A layer whose file has a gain for each channel keeps one for each channel: sums and scales are then those of the
channel.

Source: Cheng et al., "Efficient Multi-Prize Lottery Tickets", section 3, equations 2 and 3; the start is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from mpt.search import weight as formulas
from mpt.search.layers import TicketLayer
from mpt.search.methods import Method
from mpt.search.parameters import check_patterns
from mpt.ticket.layer import StoredLayer
from mpt.ticket.ticket import Ticket


@dataclass(frozen=True, kw_only=True)
class Finetune(Method):
    """The scores, 0 or 1, are the mask; gradients go to the weights.

    Args:
        binary: ``b = g m sign(w)`` (True) or ``b = m w``.
        axis: of the weight along which each channel has a gain of its own; None for one gain.
    """

    binary: bool = True
    axis: int | None = None

    def mask(self, scores: Tensor, *, kept: int) -> Tensor:
        return scores.detach() > 0

    def gain(self, weight: Tensor, mask: Tensor) -> Tensor:
        if self.axis is None:
            return super().gain(weight, mask)
        return formulas.channel_gains(weight, mask, axis=self.axis)

    def ticket_weight(self, weight: Tensor, mask: Tensor, gain: Tensor) -> Tensor:
        return formulas.binary_weight(weight, mask, gain) if self.binary else formulas.masked_weight(weight, mask)

    def weight_gradient(self, grad: Tensor, scores: Tensor, gain: Tensor) -> Tensor:
        return grad * scores * gain if self.binary else grad * scores


def finetuning_network(ticket: Ticket, backbone: nn.Module, *, layers: str, seed: int) -> nn.Module:
    """Build the ticket's network in training mode, with the weights of ``layers`` to be trained.

    Everything else is frozen, batch-norm's scale and shift too; its running statistics still adapt in training.

    Args:
        ticket: one with searched layers.
        backbone: its plain network, which stays as it is.
        layers: see :func:`chosen_layers`.
        seed: of the magnitudes, where the ticket's own seed does not give them.

    Raises:
        ValueError: a dense baseline, or layers that the ticket does not have.
    """
    chosen = chosen_layers(ticket, layers)
    net = ticket.network(backbone)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    for stored in ticket.layers:
        layer = net.get_submodule(stored.name)
        assert isinstance(layer, TicketLayer)
        layer.method = _method(ticket, stored)
        with torch.no_grad():
            layer.weight.copy_(latent_weight(ticket, stored, seed=seed))
        layer.weight.requires_grad_(layer.weight.requires_grad or stored.name in chosen)  # a tied one if either is
    return net.train()


def chosen_layers(ticket: Ticket, layers: str) -> list[str]:
    """Names of the searched layers that ``layers`` selects.

    Args:
        ticket: one with searched layers.
        layers: ``first``, ``last`` (in the file's order), ``all``, or a name or pattern with ``*``.

    Raises:
        ValueError: a dense baseline, or a name or pattern that matches no layer.
    """
    names = [layer.name for layer in ticket.layers]
    if not names:
        raise ValueError("there is no mask to keep: the ticket is a dense baseline, which has no searched layer")
    if layers in ("first", "last", "all"):
        return {"first": names[:1], "last": names[-1:], "all": names}[layers]
    check_patterns("layers", (layers,), names)
    return [name for name in names if fnmatchcase(name, layers)]


def latent_weight(ticket: Ticket, layer: StoredLayer, *, seed: int) -> Tensor:
    """Latent weights that reproduce the stored ticket weights (see the head of this file), of the weight's shape.

    Kept weights of forms "real" and "coated" are their own latent weights. ``seed`` draws what the ticket's own seed
    does not give.
    """
    mask, kept, own = layer.mask(), layer.weight(), ticket.weight_seed
    drawn = ticket.random_weight(layer, seed=seed if own is None else own, stream=layer.stored_as)
    if layer.form != "binary":
        return torch.where(mask, kept, drawn)
    gain, target = _method(ticket, layer).gain(drawn, mask), layer.gain
    scale = torch.where(gain == target, 1.0, target / gain)  # 1 where a channel keeps nothing and both are 0
    return torch.where(mask, drawn.abs().copysign(kept), drawn) * scale


def _method(ticket: Ticket, layer: StoredLayer) -> Finetune:
    axis = layer.gain.shape.index(max(layer.gain.shape)) if layer.has_channel_gains else None
    return Finetune(prune=ticket.header["method"]["prune"], binary=layer.form == "binary", axis=axis)


def history(ticket: Ticket, **about: Any) -> list[dict[str, Any]]:
    """The header's list of past fine-tunings with one more entry: the ticket's digest, and ``about``."""
    return [*ticket.header.get("history", []), {"ticket": ticket.digest, **about}]
