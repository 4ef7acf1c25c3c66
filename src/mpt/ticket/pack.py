"""From a converted network to stored layers and states: masks and signs become bits, and nothing is lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from mpt.search.conversion import Conversion
from mpt.search.layers import TicketLayer, one_selection, searched_tensors, ticket_layers
from mpt.search.supermasks import MAX_COATS
from mpt.search.weight import channel_shape
from mpt.ticket.coding import pack_bits
from mpt.ticket.layer import StoredLayer, StoredState, pack_coats


def refuse_unfinished(conversion: Conversion) -> None:
    """ValueError in an epoch in which the network keeps more than its ticket will."""
    first = conversion.method.unfinished_epochs
    if conversion.epoch is not None and conversion.epoch < first:
        raise ValueError(
            f"the network is in epoch {conversion.epoch + 1} of the {first} in which the fraction removed still rises "
            "to prune: what it keeps now is no ticket yet, train on"
        )


def pack_layers(net: nn.Module, conversion: Conversion) -> tuple[list[StoredLayer], set[int]]:
    """The searched layers of ``net``, and the identities of their tensors."""
    layers: list[StoredLayer] = []
    first: dict[int, StoredLayer] = {}  # by the identity of the weight: the first layer that has it
    with one_selection(net):
        for name, layer in ticket_layers(net).items():
            binary_input, owner = name in conversion.binary_inputs, first.get(id(layer.weight))
            if owner is None:
                stored = first[id(layer.weight)] = _pack_layer(name, layer, binary_input=binary_input)
            else:
                stored = replace(owner, name=name, tied=owner.name, binary_input=binary_input)
            layers.append(stored)
    return layers, searched_tensors(net)


def _pack_layer(name: str, layer: TicketLayer, *, binary_input: bool) -> StoredLayer:
    """The stored form of one ticket layer.

    It is binary if all kept weights have one magnitude, or all kept weights of each channel have one and storing those
    takes fewer bits than storing the weights. It is coated if their magnitudes are small multiples of one number, and
    real otherwise.
    """
    current = layer.ticket()
    mask = current.mask.cpu().contiguous().numpy()
    if not mask.any():
        raise layer.selection.empty(layer, name)
    weight = current.ticket_weight.detach().float().cpu().contiguous().numpy()
    kept, gain = weight[mask], _gain(weight, mask)
    parts, coats = {"mask": torch.from_numpy(pack_bits(mask))}, tuple[int, ...]()
    if gain is None and (found := _levels(kept, current.gain.float().cpu().numpy())):
        gain, levels = found
        parts["coats"], coats = pack_coats(levels)
    if gain is None:
        parts["values"] = torch.from_numpy(kept)
    else:
        parts |= {"signs": torch.from_numpy(pack_bits(kept >= 0)), "gain": torch.from_numpy(gain)}
    form = "real" if gain is None else "coated" if coats else "binary"
    return StoredLayer(name, mask.shape, len(kept), form, None, binary_input, parts, coats)


def _levels(kept: np.ndarray, gain: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """A number, and its multiples that are the magnitudes of the ``kept`` weights; None unless those are 1 up to 15.

    The number is the layer's ``gain``, or else a fraction of the least magnitude: a network from a file has no coats.
    """
    sizes = np.abs(kept)
    least, most = sizes.min(), sizes.max()
    fractions = [least / np.float32(count) for count in range(1, MAX_COATS + 1)]
    for unit in [gain, *fractions] if gain.ndim == 0 else fractions:
        if 0 < unit <= least and most / (MAX_COATS + 0.5) <= unit:
            levels: np.ndarray = np.rint(sizes / unit).astype(np.float32)
            if (levels * unit == sizes).all():
                return np.asarray(unit), levels
    return None


def _gain(weight: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """The magnitude of the kept weights, 0-d or one for each channel (0 where it keeps none); None if they have more.

    Channels are the indices of axis 0, or of axis 1 where those fit (output channels of a transposed convolution).
    """
    magnitudes, kept = np.abs(weight), int(mask.sum())
    largest = magnitudes[mask].max()
    if (magnitudes[mask] == largest).all():
        return np.asarray(largest)
    for axis in range(min(2, weight.ndim)):
        others = tuple(dim for dim in range(weight.ndim) if dim != axis)
        gain: np.ndarray = magnitudes.max(axis=others, where=mask, initial=0).reshape(channel_shape(weight.shape, axis))
        if kept + 32 * gain.size < 32 * kept and bool((magnitudes == gain)[mask].all()):
            return gain
    return None


def origin_of_signs(layers: list[StoredLayer], *, seed: int | None, init: str | None) -> str:
    """The header's ``signs``: ``seed`` if ``seed`` draws the signs of all kept weights, else ``stored``."""
    own = [layer for layer in layers if not layer.tied]
    return "seed" if all(layer.has_seed_signs(seed=seed, init=init) for layer in own) else "stored"


def tensors_of(layers: list[StoredLayer], others: list[StoredState]) -> dict[str, Tensor]:
    """All tensors of a ticket under their names in the file; a tied layer adds none."""
    tensors = {
        f"{layer.name}.{part}": value for layer in layers if not layer.tied for part, value in layer.parts.items()
    }
    return tensors | {state.name: state.value for state in others}


def other_state(net: nn.Module, searched: set[int]) -> list[StoredState]:
    """Every parameter and saved buffer of ``net`` whose identity is not in ``searched``."""
    return [
        StoredState(name, value.requires_grad if isinstance(value, nn.Parameter) else None, _stored(name, value))
        for name, value in unsearched(net, searched).items()
    ]


def unsearched(net: nn.Module, searched: set[int]) -> dict[str, Tensor]:
    """The parameters of ``net``, then its saved buffers, by name, without those whose identity is in ``searched``."""
    saved = net.state_dict().keys()
    buffers = {name: buffer for name, buffer in net.named_buffers() if name in saved}
    return {
        name: value for name, value in (dict(net.named_parameters()) | buffers).items() if id(value) not in searched
    }


def _stored(name: str, value: Tensor) -> Tensor:
    """``value`` as the file has it: float32, int64 or bool, on the CPU."""
    value = value.detach().cpu().contiguous()
    if value.is_complex():
        raise ValueError(f"{name} is complex, which a ticket cannot hold: make it real, or two real tensors")
    if value.dtype == torch.bool:
        return value.clone()
    return value.to(torch.float32 if value.is_floating_point() else torch.int64, copy=True)
