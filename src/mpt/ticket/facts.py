"""``ticket.json``, next to a run's ticket: the ticket's layers as numbers and small pictures.

A page of many runs reads this file instead of decoding every ticket. A run writes it when it ends. It names the
checksum of its ticket file, so that it is not taken for another ticket's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpt.files import checksum, write_atomically
from mpt.schema import fits, is_text, read_json
from mpt.ticket.pictures import kernels, pair_densities, unpack

if TYPE_CHECKING:
    from mpt.ticket.layer import StoredLayer
    from mpt.ticket.ticket import Ticket

FILE = "ticket.json"
MAX_LAYERS = 2000


@dataclass
class Kernels:
    """Weights of the first searched layer, see :func:`mpt.ticket.pictures.kernels`."""

    shape: list[int]
    cells: str
    steps: int
    scale: float
    of: list[int]


@dataclass
class Pairs:
    """Densities of pairs of channels, see :func:`mpt.ticket.pictures.pair_densities`."""

    shape: list[int]
    cells: str
    low: float
    high: float
    of: list[int]


@dataclass
class Layer:
    """One searched layer; ``kernel`` and what follows it are None for a fully-connected one.

    ``gain`` is the mean over the kept weights, between ``least_gain`` and ``largest_gain``.
    """

    name: str
    tied: str | None
    shape: list[int]
    num_weights: int
    num_kept: int
    density: float
    gain: float
    least_gain: float
    largest_gain: float
    bits: int
    pairs: Pairs | None
    kernel: str | None
    kernels: int | None
    zero_kernels: int | None
    zero: float | None
    zero_chance: float | None
    zero_difference: float | None


@dataclass
class Facts:
    """The content of the file. ``first`` is None for a dense baseline, which has no searched layers either."""

    ticket_checksum: str
    first: Kernels | None
    layers: list[Layer]


def facts_of(ticket: Ticket, *, checksum: str) -> dict[str, Any]:
    """The facts of a ticket, as plain JSON that fits :class:`Facts`.

    Args:
        ticket: any.
        checksum: of its file (:func:`mpt.files.checksum`).
    """
    first = next(iter(ticket.layers), None)
    picture = None
    if first is not None and len(first.shape) > 1:
        equal = first.form == "binary" and not first.has_channel_gains
        picture = kernels(first.weight().numpy(), image=ticket.image_shape, equal=equal)
    return {"ticket_checksum": checksum, "first": picture, "layers": [_layer(layer) for layer in ticket.layers]}


def _layer(layer: StoredLayer) -> dict[str, Any]:
    from mpt.ticket.report import layer_row  # brings torch

    sizes = np.abs(layer.kept_values().double().numpy())
    mask = layer.mask().numpy()
    gains = {"gain": float(sizes.mean()), "least_gain": float(sizes.min()), "largest_gain": float(sizes.max())}
    row = layer_row(layer, gains["gain"]) | gains
    return row | {"bits": layer.bits, "pairs": pair_densities(mask) if mask.ndim > 1 else None}


def write_facts(ticket: Ticket, path: Path) -> dict[str, Any]:
    """Write the facts of the ticket in the file at ``path`` next to it; return them."""
    content = facts_of(ticket, checksum=checksum(path))
    write_atomically(path.with_name(FILE), json.dumps(content) + "\n")
    return content


def read_facts(directory: Path, *, ticket_checksum: str) -> dict[str, Any]:
    """The facts in ``directory`` of the ticket whose file has this checksum.

    Raises:
        OSError: there are none, or they cannot be read.
        ValueError: they are damaged, or of another ticket.
    """
    content: dict[str, Any] = read_json(directory / FILE)
    if not fits(content, Facts):
        raise ValueError(f"{FILE} is not what mpt wrote")
    if content.get("ticket_checksum") != ticket_checksum:
        raise ValueError(f"{FILE} is of another ticket")
    rows, first = content.get("layers"), content.get("first")
    if not isinstance(rows, list) or len(rows) > MAX_LAYERS or not all(_is_whole(row) for row in rows):
        raise ValueError(f"{FILE} lacks numbers of a layer")
    pictures = [(row["pairs"], False, 2) for row in rows if row["pairs"]] + ([(first, True, 4)] if first else [])
    for picture, signed, dimensions in pictures:
        schema = Kernels if signed else Pairs
        if not picture.keys() >= schema.__dataclass_fields__.keys() or len(picture["of"]) != 2:
            raise ValueError(f"{FILE} lacks a part of a picture")
        if len(picture["shape"]) != dimensions:
            raise ValueError(f"{FILE} has a picture of {len(picture['shape'])} dimensions")
        unpack(picture, signed=signed)
    return content


def _is_whole(row: dict[str, Any]) -> bool:
    needed = set(Layer.__dataclass_fields__)
    numbers = ("num_weights", "num_kept", "density", "gain", "bits")
    return row.keys() >= needed and is_text(row["name"]) and all(row[name] is not None for name in numbers)
