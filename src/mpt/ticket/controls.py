"""Controls that tell a ticket from luck: the same bits, with what the search found destroyed."""

from __future__ import annotations

import math

import torch

from mpt.search.initializers import stream_generator
from mpt.search.mask import packed_bits, unpacked_bits
from mpt.ticket.ticket import Ticket

CONTROLS = ("shuffled_mask",)


def control(ticket: Ticket, name: str, *, seed: int = 0) -> Ticket:
    """A ticket of the same density and gains without what was found.

    ``shuffled_mask``: the mask of each layer is permuted at random within the layer; the signs stay in their order.

    Raises:
        ValueError: an unknown control, or a ticket without a searched layer.
    """
    if name not in CONTROLS:
        raise ValueError(f"control must be one of {', '.join(CONTROLS)}, got {name!r}")
    if not ticket.header["layers"]:
        raise ValueError(f"control={name} needs a ticket with searched layers; this one is a dense baseline")
    tensors = dict(ticket.tensors)
    for row in ticket.header["layers"]:
        key = f"{row['name']}.mask"
        bits = unpacked_bits(tensors[key].numpy(), n=math.prod(row["shape"]))
        shuffled = stream_generator(seed, f"{name}/{row['name']}").permutation(bits)
        tensors[key] = torch.from_numpy(packed_bits(shuffled))
    return Ticket(ticket.header, tensors)
