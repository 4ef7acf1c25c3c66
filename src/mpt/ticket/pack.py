"""A converted network's layers and other state as a ticket holds them; :mod:`mpt.ticket.format` names the tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpt.search.layers import TicketLayer
from mpt.ticket.format import pack_bits


def pack_layer(name: str, layer: TicketLayer, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Put the packed tensors of one layer into ``tensors``; its header row."""
    ticket = layer.ticket()
    mask = ticket.mask.cpu().contiguous().numpy().ravel()
    kept = ticket.ticket_weight.detach().float().cpu().contiguous().numpy().ravel()[mask]
    tensors[f"{name}.mask"] = torch.from_numpy(pack_bits(mask))
    binary = bool((np.abs(kept) == np.abs(kept[0])).all())
    if binary:
        tensors[f"{name}.signs"] = torch.from_numpy(pack_bits(kept >= 0))
        tensors[f"{name}.gain"] = torch.tensor(np.abs(kept[0]))
    else:
        tensors[f"{name}.values"] = torch.from_numpy(kept)
    form = "binary" if binary else "real"
    return {"name": name, "shape": list(layer.weight.shape), "kept": int(mask.sum()), "form": form}


def tied_row(layers: list[dict[str, Any]], name: str, owner: str) -> dict[str, Any]:
    """Header row of a layer whose weight is that of the layer ``owner``: the file holds its bits once."""
    return {**next(row for row in layers if row["name"] == owner), "name": name, "tied": owner}


def other_state(net: nn.Module, searched: set[int]) -> list[tuple[str, Tensor, bool | None]]:
    """(name, value, trained) of every parameter that is not searched and every saved buffer (trained None)."""
    saved = net.state_dict().keys()
    state: list[tuple[str, Tensor, bool | None]] = [
        (name, p, p.requires_grad) for name, p in net.named_parameters() if id(p) not in searched
    ]
    state += [
        (name, buffer, None) for name, buffer in net.named_buffers() if name in saved and id(buffer) not in searched
    ]
    return [(name, _stored(name, value), trained) for name, value, trained in state]


def _stored(name: str, value: Tensor) -> Tensor:
    """``value`` as the file has it: float32, int64 or bool, on the CPU."""
    value = value.detach().cpu().contiguous()
    if value.is_complex():
        raise ValueError(f"{name} is complex and cannot be put into a ticket")
    if value.dtype == torch.bool:
        return value.clone()
    return value.to(torch.float32 if value.is_floating_point() else torch.int64, copy=True)
