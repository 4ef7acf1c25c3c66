"""Controls, which tell a ticket from luck: the same network and density without the result of the search.

    shuffled_mask   permutes the mask within each layer; signs keep their order
    random_mask     draws a mask over the whole network, with as many weights as the ticket keeps and at least one in
                    each layer; the weights come from the ticket's seed
    fresh_weights   keeps the mask and draws the weights, and so the signs, again

Where the ticket has no seed, or its signs are not the seed's (:attr:`mpt.Ticket.weight_seed`), ``random_mask`` draws
fresh weights. Gains stay: each is one factor of a layer or of an output channel. An output channel without a weight,
and so without a gain, takes the mean of the others. Batch-norm's running statistics stay the ticket's and must be
estimated again (``mpt-eval control=...`` does so). A weight that several layers share is drawn once and counted once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from mpt.streams import stream_generator
from mpt.ticket.coding import pack_bits
from mpt.ticket.layer import StoredLayer, pack_coats
from mpt.ticket.ticket import Ticket


def control(ticket: Ticket, name: str, *, seed: int = 0) -> Ticket:
    """A ticket of the same density and gains, without the result of the search.

    Args:
        ticket: one with searched layers.
        name: one of :data:`CONTROLS`, see above.
        seed: of the draw.

    Raises:
        ValueError: an unknown control, a ticket without a searched layer, or ``fresh_weights`` where all weights have
            one value, so that there are no signs to draw.
    """
    if name not in CONTROLS:
        raise ValueError(f"control must be one of {', '.join(CONTROLS)}, got {name!r}")
    if not ticket.layers:
        raise ValueError(f"control={name} needs a ticket with searched layers; this one is a dense baseline")
    if name == "fresh_weights" and ticket.header["method"].get("init") == "unsigned_constant":
        raise ValueError("control=fresh_weights draws signs, and with init=unsigned_constant all weights are positive")
    return ticket.with_layers(CONTROLS[name](ticket, seed))


def _shuffled_mask(ticket: Ticket, seed: int) -> dict[str, StoredLayer]:
    layers = {}
    for layer in ticket.stored_layers():
        mask = stream_generator(seed, f"shuffled_mask/{layer.name}").permutation(layer.mask().flatten().numpy())
        layers[layer.name] = _with_mask(layer, mask)
    return layers


def _random_mask(ticket: Ticket, seed: int) -> dict[str, StoredLayer]:
    layers, counts, own = {}, _counts(ticket, seed=seed), ticket.weight_seed
    for layer in ticket.stored_layers():
        stream = f"random_mask/{layer.name}"
        mask = stream_generator(seed, stream).permutation(np.arange(layer.num_weights) < counts[layer.name])
        if own is None:
            weight = ticket.random_weight(layer, seed=seed, stream=stream)
        else:
            weight = ticket.random_weight(layer, seed=own, stream=layer.name)
        chosen = _with_coats(_with_mask(layer, mask), layer, stream_generator(seed, f"{stream}/coats"))
        layers[layer.name] = _with_values(chosen, weight.flatten().numpy()[mask])
    return layers


def _fresh_weights(ticket: Ticket, seed: int) -> dict[str, StoredLayer]:
    layers = {}
    for layer in ticket.stored_layers():
        weight = ticket.random_weight(layer, seed=seed, stream=f"fresh_weights/{layer.name}")
        layers[layer.name] = _with_values(layer, weight[layer.mask()].numpy())
    return layers


CONTROLS: dict[str, Callable[[Ticket, int], dict[str, StoredLayer]]] = {
    "shuffled_mask": _shuffled_mask,
    "random_mask": _random_mask,
    "fresh_weights": _fresh_weights,
}


def _counts(ticket: Ticket, *, seed: int) -> dict[str, int]:
    """How many weights of each layer a uniform draw over the network keeps; one in each layer is kept beforehand."""
    layers = ticket.stored_layers()
    rest = np.array([layer.num_weights - 1 for layer in layers])
    generator = stream_generator(seed, "random_mask")
    drawn = generator.multivariate_hypergeometric(rest, ticket.num_kept - len(layers), method="marginals")
    return dict(zip((layer.name for layer in layers), (drawn + 1).tolist(), strict=True))


def _with_mask(layer: StoredLayer, mask: np.ndarray) -> StoredLayer:
    """``layer`` with another mask, bool (n,)."""
    parts = {**layer.parts, "mask": torch.from_numpy(pack_bits(mask))}
    if layer.has_channel_gains:
        used = layer.gain > 0
        parts["gain"] = torch.where(used, layer.gain, layer.gain[used].mean())
    return replace(layer, kept=int(mask.sum()), parts=parts)


def _with_coats(layer: StoredLayer, before: StoredLayer, generator: np.random.Generator) -> StoredLayer:
    """``layer``, which may keep another number of weights than ``before``, with its share of each further mask."""
    if not before.coats:
        return layer
    levels = np.ones(layer.kept, dtype=np.float32)
    for count in before.coats:
        levels[: max(1, round(count * layer.kept / before.kept))] += 1
    packed, coats = pack_coats(generator.permutation(levels))
    return replace(layer, coats=coats, parts={**layer.parts, "coats": packed})


def _with_values(layer: StoredLayer, kept: np.ndarray) -> StoredLayer:
    """``layer`` with other kept weights, float32 (kept,); form "binary" takes their signs."""
    if layer.form == "real":
        return replace(layer, parts={**layer.parts, "values": torch.from_numpy(kept)})
    return replace(layer, parts={**layer.parts, "signs": torch.from_numpy(pack_bits(kept >= 0))})
