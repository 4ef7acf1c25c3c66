"""Pictures of a ticket as small arrays: weights of the first layer, and the density of each pair of channels.

Kernels show ``-gain``, 0 and ``+gain`` as -1, 0 and +1. Where a layer has several gains or real weights, they show
``round(127 w / max |w|)``. Densities show, of each pair of an output and an input channel, the fraction of its kernel
that is kept. A layer of more than ``SIDE`` channels shows means over blocks of neighbouring channels.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

SIDE = 64  # blocks of channels in each direction, at most
MAX_FILTERS, MAX_CHANNELS, MAX_LINE = 64, 4, 256  # of a picture of kernels
MAX_CELLS = 6000  # of a picture of kernels: what is left of a text's bound after packing
FINE = 127  # steps from 0 to the largest weight, where there are more than three values
LEVELS = 255  # steps of a density


def pack(cells: np.ndarray, **about: Any) -> dict[str, Any]:
    """``cells``, int8 or uint8, as plain JSON: its shape, its bytes, compressed, in base64, and ``about``."""
    content = zlib.compress(np.ascontiguousarray(cells).tobytes(), 9)
    return {"shape": list(cells.shape), "cells": base64.b64encode(content).decode(), **about}


def unpack(picture: Mapping[str, Any], *, signed: bool) -> np.ndarray:
    """The cells that :func:`pack` was given: int8 if ``signed``, else uint8.

    Raises:
        ValueError: the picture is damaged, or larger than those of this module.
    """
    shape = picture["shape"]
    number = math.prod(shape)
    if not all(size > 0 for size in shape) or not 0 < number <= max(MAX_CELLS, SIDE**2):
        raise ValueError("a picture has no cells, or too many")
    try:
        content = zlib.decompressobj().decompress(base64.b64decode(picture["cells"], validate=True), number + 1)
    except (zlib.error, ValueError) as error:
        raise ValueError("a picture cannot be unpacked") from error
    if len(content) != number:
        raise ValueError("a picture has another number of cells than its shape says")
    return np.frombuffer(content, dtype=np.int8 if signed else np.uint8).reshape(shape)


def kernels(weight: np.ndarray, *, image: tuple[int, int], equal: bool) -> dict[str, Any]:
    """The first filters of a layer.

    Args:
        weight: ticket weight, float32 (O, I, ...).
        image: channels and side of the network's images: outputs of a fully-connected layer are shown as images.
        equal: whether all kept weights have one magnitude.

    Returns:
        ``shape`` (filters, channels, height, width) and ``cells``, see :func:`pack`; ``steps``, the largest value of a
        cell; ``scale``, the weight that it stands for; ``of``, filters and channels of the whole layer.
    """
    channels, side = image
    whole = weight.shape[1] == channels * side * side
    if weight.ndim == 2:
        cells = weight.reshape(-1, channels, side, side) if whole else weight[:, None, None, :MAX_LINE]
    else:
        cells = weight.reshape(*weight.shape[:2], -1, weight.shape[-1])
    of = [len(weight), cells.shape[1]]
    cells = cells[:MAX_FILTERS, :MAX_CHANNELS]
    cells = cells[: max(1, MAX_CELLS // math.prod(cells.shape[1:])), :, :MAX_LINE, :MAX_LINE]
    cells = cells.reshape(-1)[:MAX_CELLS].reshape(1, 1, 1, -1) if cells.size > MAX_CELLS else cells
    scale, steps = float(np.abs(weight).max()), 1 if equal else FINE
    levels = np.sign(cells) if equal else np.round(steps * cells / max(scale, 1e-30))
    return pack(levels.astype(np.int8), steps=steps, scale=scale, of=of)


def pair_densities(mask: np.ndarray) -> dict[str, Any]:
    """The density of each pair of channels of a layer.

    Args:
        mask: bool (O, I, ...).

    Returns:
        ``shape`` (outputs, inputs, or blocks of them) and ``cells`` from 0 to ``LEVELS``, see :func:`pack`; ``low`` and
        ``high``, the densities of these; ``of``, outputs and inputs of the layer.
    """
    pairs = shrink(mask.reshape(*mask.shape[:2], -1).mean(axis=2, dtype=np.float64), side=SIDE)
    low, high = float(pairs.min()), float(pairs.max())
    levels = np.round(LEVELS * (pairs - low) / (high - low)) if high > low else np.zeros_like(pairs)
    return pack(levels.astype(np.uint8), low=low, high=high, of=list(mask.shape[:2]))


def shrink(values: np.ndarray, *, side: int) -> np.ndarray:
    """Means over at most ``side`` blocks of rows and of columns, which differ in size by one at most."""
    for axis in (0, 1):
        size = values.shape[axis]
        if size > side:
            edges = np.linspace(0, size, side + 1).astype(int)
            sums = np.add.reduceat(values, edges[:-1], axis=axis, dtype=np.float64)
            values = sums / np.expand_dims(np.diff(edges), 1 - axis)
    return values
