"""Constructed layers as a ticket stores them: bits of masks and signs, and one gain or real weights."""

from __future__ import annotations

import math

import numpy as np
import torch

from mpt.search.initializers import random_sign_bits
from mpt.ticket.coding import pack_bits
from mpt.ticket.layer import StoredLayer


def signs(shape: tuple[int, ...], *, seed: int, layer: str) -> np.ndarray:
    """Which random signs of a layer are +, bool of its shape."""
    n = math.prod(shape)
    bits = np.unpackbits(random_sign_bits(n, seed=seed, layer=layer), count=n, bitorder="little")
    return bits.view(bool).reshape(shape)


def as_rows(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The weight of an outer layer as (outputs places, hidden)."""
    values = values.reshape(shape[0], shape[1], -1)
    return np.ascontiguousarray(values.transpose(0, 2, 1)).reshape(-1, shape[1])


def as_weight(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """:func:`as_rows` the other way round, flat."""
    flat: np.ndarray = rows.reshape(shape[0], -1, shape[1]).transpose(0, 2, 1).reshape(-1)
    return flat


def binary_outer(
    name: str, shape: tuple[int, ...], mask: np.ndarray, positive: np.ndarray, gain: np.float32
) -> StoredLayer:
    """A binary outer layer from mask and signs in the form of :func:`as_rows`."""
    flat = as_weight(mask, shape)
    return binary_layer(name, shape, flat, as_weight(positive, shape)[flat], gain)


def binary_layer(
    name: str, shape: tuple[int, ...], mask: np.ndarray, positive: np.ndarray, gain: np.float32
) -> StoredLayer:
    """A binary layer: ``mask`` (n,), the signs of the kept weights (kept,), and the gain."""
    parts = {
        "mask": torch.from_numpy(pack_bits(mask)),
        "signs": torch.from_numpy(pack_bits(positive)),
        "gain": torch.tensor(gain, dtype=torch.float32),
    }
    return StoredLayer(name, shape, int(mask.sum()), "binary", None, False, parts)


def real_layer(name: str, shape: tuple[int, ...], mask: np.ndarray, values: np.ndarray) -> StoredLayer:
    """A real layer: ``mask`` (n,), and the kept weights (kept,)."""
    parts = {
        "mask": torch.from_numpy(pack_bits(mask)),
        "values": torch.from_numpy(np.ascontiguousarray(values, np.float32)),
    }
    return StoredLayer(name, shape, int(mask.sum()), "real", None, False, parts)
