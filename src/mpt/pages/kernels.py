"""Kernels of a ticket's first layer as tiles: where each weight stands in a drawing, and a picture of all of them.

Orange is ``-gain``, grey 0 and blue ``+gain``. Input channels of a filter stand next to each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpt.ticket.pictures import unpack

CELL, GAP = 6, 5  # pixels of a weight, and between filters
SHADES = 8  # steps from 0 to the largest weight
MINUS, ZERO, PLUS = (213, 94, 0), (228, 231, 235), (0, 114, 178)  # colours of -gain, 0 and +gain


@dataclass(frozen=True)
class Tiles:
    """Filters side by side.

    Attributes:
        values: (filters, channels, height, width), from -1 to 1.
        cell: pixels of a weight in each direction.
        columns: filters in a row.
    """

    values: np.ndarray
    cell: int
    columns: int

    @property
    def pitch(self) -> tuple[int, int]:
        """Pixels from one filter to the next, to the right and down."""
        _, channels, height, width = self.values.shape
        return channels * (width * self.cell + 1) + GAP, height * self.cell + GAP

    @property
    def height(self) -> int:
        """Pixels of all rows, with a gap below each."""
        return -(-len(self.values) // self.columns) * self.pitch[1]

    def corner(self, place: tuple[int, ...]) -> tuple[int, int]:
        """Pixels from the left and from the top of the weight at ``place``: filter, channel, row, column."""
        (f, c, y, x), (right, down) = place, self.pitch
        left = (f % self.columns) * right + c * (self.values.shape[3] * self.cell + 1) + x * self.cell
        return left, (f // self.columns) * down + y * self.cell


def tiles(first: Mapping[str, Any], *, width: int) -> Tiles:
    """The kernels of ``first`` (:func:`mpt.ticket.pictures.kernels`), laid out in ``width`` pixels."""
    values = unpack(first, signed=True).astype(float) / first["steps"]
    cell = max(1, min(CELL, 96 // max(values.shape[2:])))
    across = values.shape[1] * (values.shape[3] * cell + 1) + GAP
    return Tiles(values, cell, max(1, min(len(values), width // across)))


def mix(a: Any, b: Any, share: Any) -> np.ndarray:
    """The colour ``a + share (b - a)``."""
    start: np.ndarray = np.asarray(a)
    mixed: np.ndarray = start + share * (np.asarray(b) - start)
    return mixed


def colours(values: np.ndarray) -> np.ndarray:
    """Colours of ``values`` (...) from -1 to 1: uint8 (..., 3)."""
    shades = np.abs(np.round(SHADES * values) / SHADES)[..., None]
    return np.round(mix(ZERO, np.where(values[..., None] > 0, PLUS, MINUS), shades)).astype(np.uint8)


def picture(first: Mapping[str, Any], *, width: int = 712) -> np.ndarray:
    """The kernels of ``first`` on white, uint8 (height, at most ``width`` unless one filter is wider, 3)."""
    laid = tiles(first, width=width)
    out = np.full((laid.height - GAP, laid.columns * laid.pitch[0] - GAP - 1, 3), 255, dtype=np.uint8)
    shades = colours(laid.values)
    for place in np.ndindex(*laid.values.shape):
        left, top = laid.corner(place)
        out[top : top + laid.cell, left : left + laid.cell] = shades[place]
    return out
