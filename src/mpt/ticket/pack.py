"""From a converted network to stored layers and states: masks and signs become bits, and nothing is lost."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mpt.search.initializers import random_signs
from mpt.search.layers import TicketLayer
from mpt.ticket.format import pack_bits
from mpt.ticket.layer import StoredLayer, StoredState


def pack_layer(name: str, layer: TicketLayer, *, binary_input: bool) -> StoredLayer:
    """The stored form of one ticket layer: binary if its kept weights have one magnitude, else real."""
    current = layer.ticket()
    mask = current.mask.cpu().contiguous().numpy().ravel()
    kept = current.ticket_weight.detach().float().cpu().contiguous().numpy().ravel()[mask]
    parts = {"mask": torch.from_numpy(pack_bits(mask))}
    binary = bool((np.abs(kept) == np.abs(kept[0])).all())
    if binary:
        parts |= {"signs": torch.from_numpy(pack_bits(kept >= 0)), "gain": torch.tensor(np.abs(kept[0]))}
    else:
        parts["values"] = torch.from_numpy(kept)
    form = "binary" if binary else "real"
    return StoredLayer(name, tuple(layer.weight.shape), int(mask.sum()), form, None, binary_input, parts)


def origin_of_signs(layers: list[StoredLayer], *, seed: int | None, init: str | None) -> str:
    """The header's ``signs``: ``seed`` if ``seed`` draws the signs of all kept weights, else ``stored``."""
    own = [layer for layer in layers if not layer.tied]
    return "seed" if all(has_seed_signs(layer, seed=seed, init=init) for layer in own) else "stored"


def has_seed_signs(layer: StoredLayer, *, seed: int | None, init: str | None) -> bool:
    """Whether ``seed`` draws the signs of the kept weights, for the layer's name and the initializer ``init``."""
    if seed is None or init is None:
        return False
    return bool(torch.equal(seed_signs(layer, seed=seed, init=init), layer.signs()))


def seed_signs(layer: StoredLayer, *, seed: int, init: str) -> Tensor:
    """The signs that ``seed`` draws for the kept weights, float32 (kept,), as :meth:`StoredLayer.signs` has them."""
    if init == "unsigned_constant":
        return torch.ones(layer.kept)
    drawn = random_signs(layer.num_weights, seed=seed, layer=layer.stored_as)
    return torch.from_numpy(drawn)[layer.mask().flatten()]


def tensors_of(layers: list[StoredLayer], others: list[StoredState]) -> dict[str, Tensor]:
    """All tensors of a ticket under their names in the file; a tied layer adds none."""
    tensors = {
        f"{layer.name}.{part}": value for layer in layers if not layer.tied for part, value in layer.parts.items()
    }
    return tensors | {state.name: state.value for state in others}


def other_state(net: nn.Module, searched: set[int]) -> list[StoredState]:
    """Every parameter and saved buffer of ``net`` whose identity is not in ``searched``."""
    saved = net.state_dict().keys()
    parameters = [(name, p, p.requires_grad) for name, p in net.named_parameters() if id(p) not in searched]
    buffers = [(name, b, None) for name, b in net.named_buffers() if name in saved and id(b) not in searched]
    return [StoredState(name, trained, _stored(name, value)) for name, value, trained in (*parameters, *buffers)]


def _stored(name: str, value: Tensor) -> Tensor:
    """``value`` as the file has it: float32, int64 or bool, on the CPU."""
    value = value.detach().cpu().contiguous()
    if value.is_complex():
        raise ValueError(f"{name} is complex, which a ticket cannot hold: make it real, or two real tensors")
    if value.dtype == torch.bool:
        return value.clone()
    return value.to(torch.float32 if value.is_floating_point() else torch.int64, copy=True)
