"""Controls that tell a ticket from luck: the same network and density, with what the search found destroyed.

    shuffled_mask   the mask of each layer permuted within the layer; signs in their order
    random_mask     a mask drawn over the whole network, as many weights as the ticket keeps, at least one a layer; the
                    weights are those of the ticket's seed (without one, fresh)
    fresh_weights   the mask stays; weights, and so signs, are drawn anew

Gains stay what they are: a factor a layer, which batch-norm and a ReLU network's argmax do not see. Batch-norm's
running statistics are those of the ticket and must be estimated anew (``mpt-eval control=...`` does). A weight tied
between layers is one weight: it is drawn once and counted once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from mpt.search.initializers import random_weight
from mpt.streams import stream_generator
from mpt.ticket.format import pack_bits, stored_as, unpack_bits
from mpt.ticket.ticket import Ticket

CONTROLS = ("shuffled_mask", "random_mask", "fresh_weights")


def control(ticket: Ticket, name: str, *, seed: int = 0) -> Ticket:
    """A ticket of the same density and gains without what was found.

    Args:
        ticket: one with searched layers.
        name: one of :data:`CONTROLS`, see above.
        seed: of what is drawn.

    Raises:
        ValueError: an unknown control, a ticket without a searched layer, or ``fresh_weights`` where all weights have
            one value, so that there is nothing to draw.
    """
    if name not in CONTROLS:
        raise ValueError(f"control must be one of {', '.join(CONTROLS)}, got {name!r}")
    if not ticket.header["layers"]:
        raise ValueError(f"control={name} needs a ticket with searched layers; this one is a dense baseline")
    if name == "fresh_weights" and ticket.header["method"].get("init") == "unsigned_constant":
        raise ValueError(
            "control=fresh_weights draws signs anew, and with init=unsigned_constant there are none to draw"
        )
    tensors, rows = dict(ticket.tensors), {}
    counts = _counts(ticket, seed=seed) if name == "random_mask" else {}
    for row in ticket.stored_layers():
        layer, n = row["name"], math.prod(row["shape"])
        bits, generator = _bits(ticket, row), stream_generator(seed, f"{name}/{layer}")
        if name == "shuffled_mask":
            bits = generator.permutation(bits)
        elif name == "random_mask":
            bits = generator.permutation(np.arange(n) < counts[layer])
        tensors[f"{layer}.mask"] = torch.from_numpy(pack_bits(bits))
        if name != "shuffled_mask":
            own = name == "random_mask" and ticket.header["seed"] is not None
            stream = layer if own else f"{name}/{layer}"
            weights = _weights(ticket, row, seed=ticket.header["seed"] if own else seed, stream=stream)
            _put(tensors, row, weights[bits])
        rows[layer] = {"kept": int(bits.sum())}
    layers = [row | rows[stored_as(row)] for row in ticket.header["layers"]]
    return Ticket(ticket.header | {"layers": layers}, tensors)


def _bits(ticket: Ticket, row: dict[str, Any]) -> np.ndarray:
    return unpack_bits(ticket.tensors[f"{row['name']}.mask"].numpy(), n=math.prod(row["shape"]))


def _counts(ticket: Ticket, *, seed: int) -> dict[str, int]:
    """How many weights of each layer a uniform draw over the network keeps, one in each layer being kept anyhow."""
    names = [row["name"] for row in ticket.stored_layers()]
    rest = np.array([math.prod(row["shape"]) - 1 for row in ticket.stored_layers()])
    generator = stream_generator(seed, "random_mask")
    drawn = generator.multivariate_hypergeometric(rest, ticket.num_kept - len(names), method="marginals")
    return dict(zip(names, (drawn + 1).tolist(), strict=True))


def _weights(ticket: Ticket, row: dict[str, Any], *, seed: int, stream: str) -> np.ndarray:
    """Random weights of a layer, flat, drawn as those of the ticket were (Kaiming normal where it does not say)."""
    method = ticket.header["method"]
    weight = random_weight(
        torch.Size(row["shape"]),
        seed=seed,
        layer=stream,
        init=method.get("init", "kaiming_normal"),
        scale_fan=method.get("scale_fan", "none"),
        prune=ticket.layer_prune(stored_as(row)),
    )
    return weight.flatten().numpy()


def _put(tensors: dict[str, torch.Tensor], row: dict[str, Any], kept: np.ndarray) -> None:
    if row["form"] == "binary":
        tensors[f"{row['name']}.signs"] = torch.from_numpy(pack_bits(kept >= 0))
    else:
        tensors[f"{row['name']}.values"] = torch.from_numpy(kept)
