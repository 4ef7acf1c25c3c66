"""Fine-tuning a ticket: the mask stays, the weights of some layers are trained straight through the sign.

Of a layer's latent weights ``w`` and its fixed mask ``m``:

    ticket weight   b = g m sign(w)                  g = sum(m |w|) / sum(m), recomputed in every forward
    backward        dL/dw = g m dL/db                straight through the sign, g a constant; pruned weights stay

so what comes out is a binary ticket again. A ticket whose kept weights are real (edge-popup) has ``b = m w`` and
``dL/dw = m dL/db``.

**Where the latent weights start.** A file holds signs and a gain, no magnitudes. The magnitudes are those of the
random weights of the ticket's seed, drawn again, which for a ticket as it was searched are exactly the weights it was
searched among; a ticket without a seed gets those of ``seed``. The signs are the file's, and the magnitudes of a layer
are scaled so that its gain is the file's. So the network starts as the ticket, and a small weight turns its sign soon,
a large one late; with equal magnitudes (``+-g``) all would turn late and together.

Source: Cheng et al., "Efficient Multi-Prize Lottery Tickets", section 3, equations 2 and 3; the start is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from mpt.search import weight as weights
from mpt.search.initializers import random_weight
from mpt.search.layers import TicketLayer
from mpt.search.methods import Method
from mpt.search.parameters import check_patterns
from mpt.ticket.format import stored_as
from mpt.ticket.ticket import Ticket


@dataclass(frozen=True, kw_only=True)
class Finetune(Method):
    """The mask is what the scores are, 0 or 1; gradients go to the weights.

    Args:
        binary: ``b = g m sign(w)`` (True) or ``b = m w``.
    """

    binary: bool = True

    def mask(self, scores: Tensor, *, kept: int) -> Tensor:
        return scores.detach() > 0

    def ticket_weight(self, weight: Tensor, mask: Tensor, gain: Tensor) -> Tensor:
        return weights.binary_weight(weight, mask, gain) if self.binary else weights.masked_weight(weight, mask)

    def weight_gradient(self, grad: Tensor, scores: Tensor, gain: Tensor) -> Tensor:
        return grad * scores * gain if self.binary else grad * scores


def finetuning_network(ticket: Ticket, backbone: nn.Module, *, layers: str, seed: int) -> nn.Module:
    """The network that ``ticket`` is, in training mode, with the weights of ``layers`` to be trained.

    Everything else is frozen, batch-norm's scale and shift too; its running statistics follow in training.

    Args:
        ticket: one with searched layers.
        backbone: its plain network, left as it is.
        layers: see :func:`chosen_layers`.
        seed: of the magnitudes, where the ticket has none.

    Raises:
        ValueError: a dense baseline, or layers that the ticket does not have.
    """
    chosen = chosen_layers(ticket, layers)
    net = ticket.network(backbone)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    for row in ticket.header["layers"]:
        layer = net.get_submodule(row["name"])
        assert isinstance(layer, TicketLayer)
        layer.method = Finetune(prune=ticket.header["method"]["prune"], binary=row["form"] == "binary")
        with torch.no_grad():
            layer.weight.copy_(latent_weight(ticket, row, seed=seed))
        layer.weight.requires_grad_(layer.weight.requires_grad or row["name"] in chosen)  # a tied one if either is
    return net.train()


def chosen_layers(ticket: Ticket, layers: str) -> list[str]:
    """Names of the searched layers that ``layers`` means: ``first``, ``last`` (in the file's order), ``all``, or a
    name or pattern with ``*``."""
    names = [row["name"] for row in ticket.header["layers"]]
    if not names:
        raise ValueError("there is no mask to keep: the ticket is a dense baseline, which has no searched layer")
    if layers in ("first", "last", "all"):
        return {"first": names[:1], "last": names[-1:], "all": names}[layers]
    check_patterns("layers", (layers,), names)
    return [name for name in names if fnmatchcase(name, layers)]


def latent_weight(ticket: Ticket, row: dict[str, Any], *, seed: int) -> Tensor:
    """Weights whose ticket weight is the file's, as this file's head says; those of a real ticket are its own."""
    mask, kept = ticket.mask(row["name"]), ticket.weight(row["name"])
    method, own = ticket.header["method"], ticket.header["seed"]
    drawn = random_weight(
        torch.Size(row["shape"]),
        seed=seed if own is None else own,
        layer=stored_as(row),
        init=method.get("init", "kaiming_normal"),
        scale_fan=method.get("scale_fan", "none"),
        prune=ticket.layer_prune(stored_as(row)),
    )
    if row["form"] == "real":
        return torch.where(mask, kept, drawn)
    gain, wanted = weights.gain(drawn, mask), kept.abs().max()
    scale = 1.0 if torch.equal(gain, wanted) else wanted / gain
    return torch.where(mask, drawn.abs().copysign(kept), drawn) * scale


def history(ticket: Ticket, **about: Any) -> list[dict[str, Any]]:
    """The header's list of what was done to a ticket, with one more entry: to which (its digest), and ``about``."""
    return [*ticket.header.get("history", []), {"ticket": ticket.digest, **about}]
