"""The pattern that a seed draws before a search: masks are stored without the weights that it prunes or keeps.

The header's ``pattern`` has its shares; with them, the seed, the layer's name and ``prune`` it is drawn again
(:func:`mpt.search.initializers.random_pattern`). Whether a layer's mask agrees with it is checked when a file is
written, for each layer: a control has another mask, which is stored whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mpt.search.checks import own_prune
from mpt.search.initializers import random_pattern
from mpt.search.mask import num_kept
from mpt.ticket.coding import pack_bits, unpack_bits
from mpt.ticket.layer import StoredLayer


def drawn_pattern(header: Mapping[str, Any], *, layer: str, shape: Sequence[int]) -> np.ndarray | None:
    """The pattern of a layer: int8 (n,), -1 pruned, +1 kept, 0 searched; None if the header names none."""
    shares, seed, method = header.get("pattern"), header["seed"], header["method"]
    if shares is None or seed is None:
        return None
    n, own = math.prod(shape), own_prune(method.get("prune_layers"), layer)
    kept = num_kept(n, prune=method["prune"] if own is None else own)
    return random_pattern(n, seed=seed, layer=layer, kept=kept, shares=(shares[0], shares[1]))


def searched_mask(layer: StoredLayer, header: Mapping[str, Any]) -> np.ndarray | None:
    """The mask of the weights that the pattern leaves open, bool; None if there is no pattern, or the mask differs."""
    pattern = drawn_pattern(header, layer=layer.name, shape=layer.shape)
    if pattern is None:
        return None
    mask = unpack_bits(layer.parts["mask"].numpy(), n=layer.num_weights)
    agrees = mask[pattern > 0].all() and not mask[pattern < 0].any()
    return mask[pattern == 0] if agrees else None


def searched_part(layer: StoredLayer, header: Mapping[str, Any]) -> tuple[int, int] | None:
    """How many weights the pattern leaves open, and how many of them are kept; None if the mask is stored whole."""
    mask = searched_mask(layer, header)
    return None if mask is None else (mask.size, int(mask.sum()))


def merge(mask: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """The packed mask of a layer, uint8 (ceil(n / 8),), from its ``pattern`` and that of the open weights."""
    whole = pattern > 0
    whole[pattern == 0] = unpack_bits(mask, n=int(np.count_nonzero(pattern == 0)))
    return pack_bits(whole)
