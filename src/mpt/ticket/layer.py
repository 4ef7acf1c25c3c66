"""One searched layer, and one other tensor, as a ticket holds them: the header's row together with its tensors.

Of a layer with mask ``m`` and signs ``s`` of its kept weights, the ticket weight is

    form "binary"    b = g m s      one bit a kept weight, and the gain g: one number, or one for each output channel
    form "coated"    b = g c m s    and a number c of nested masks that keep the weight, at least 1 (multicoated)
    form "real"      b = m v        one float32 value v a kept weight (edge-popup)

:mod:`mpt.ticket.format` says how the bits lie in the tensors. This file is the only one that unpacks them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpt.schema import printable
from mpt.search.initializers import random_sign_bits
from mpt.search.table import LayerRow, ParameterRow
from mpt.ticket.coding import entropy, pack_bits, select_bits, unpack_bits

SHOWN = 200  # characters of a name in a table
PARTS = {  # of a layer of each form
    "binary": ("mask", "signs", "gain"),
    "coated": ("mask", "coats", "signs", "gain"),
    "real": ("mask", "values"),
}


@dataclass(frozen=True)
class StoredLayer:
    """A searched layer of a ticket.

    Attributes:
        name: of the layer in its network.
        shape: of its weight.
        kept: number of weights kept.
        form: ``binary``, ``coated`` or ``real``, see above.
        tied: the earlier layer whose weight this layer shares, or None.
        binary_input: whether the layer sees only -1 and +1 (before zero padding).
        parts: the tensors of ``PARTS``; a tied layer has its owner's.
        coats: of form ``coated``, how many weights each mask after the first keeps.
    """

    name: str
    shape: tuple[int, ...]
    kept: int
    form: str
    tied: str | None
    binary_input: bool
    parts: Mapping[str, Tensor] = field(repr=False, compare=False)
    coats: tuple[int, ...] = ()

    @classmethod
    def from_row(cls, row: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> StoredLayer:
        """The layer of a header row, with its parts from all tensors of the ticket."""
        tied = row.get("tied")
        parts = {part: tensors[f"{tied or row['name']}.{part}"] for part in PARTS[row["form"]]}
        binary_input = bool(row.get("binary_input"))
        coats = tuple(row.get("coats", ()))
        return cls(row["name"], tuple(row["shape"]), row["kept"], row["form"], tied, binary_input, parts, coats)

    @property
    def stored_as(self) -> str:
        """Name of the layer that has the tensors: the owner of a tied weight, else the layer itself."""
        return self.tied or self.name

    @property
    def num_weights(self) -> int:
        """Number of weights, kept or not."""
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        """Bits of the packed tensors; 0 for a tied layer, whose owner counts them."""
        return 0 if self.tied else sum(8 * part.nbytes for part in self.parts.values())

    @property
    def has_channel_gains(self) -> bool:
        """Whether the layer has a gain for each channel, instead of one."""
        return self.form == "binary" and self.gain.dim() > 0

    def entropy_bits(self, *, seed_signs: bool, searched: tuple[int, int] | None = None) -> float:
        """The information in the layer: ``n H(k / n)`` for the mask, a bit a kept weight for signs, 32 a gain or value.

        A further mask counts among the weights that the one before it keeps.

        Args:
            seed_signs: the signs are the seed's and count nothing.
            searched: ``n`` and ``k`` of the part of the mask that the seed does not draw; None for the whole mask.
        """
        mask = entropy(*(searched or (self.num_weights, self.kept)))
        mask += sum(entropy(before, kept) for before, kept in self.planes())
        if self.form == "real":
            return mask + 32 * self.kept
        return mask + 32 * self.gain.numel() + (0 if seed_signs else self.kept)

    @property
    def gain(self) -> Tensor:
        """Magnitude of the kept weights, 0-d or spread over the weight's shape; of form "coated" a mask's, 0-d."""
        assert self.form != "real", f"{self.name} holds real weights and has no gain"
        return self.parts["gain"]

    def mask(self) -> Tensor:
        """Which weights are kept, bool, of the weight's shape."""
        return torch.from_numpy(unpack_bits(self.parts["mask"].numpy(), n=self.num_weights)).view(self.shape)

    def signs(self) -> Tensor:
        """Signs of the kept weights in flat order, float32 (kept,): -1 or +1."""
        if self.form == "real":
            return torch.ones(self.kept).copysign(self.parts["values"])
        positive = torch.from_numpy(unpack_bits(self.parts["signs"].numpy(), n=self.kept))
        return positive.float().mul_(2).sub_(1)

    def seed_signs(self, *, seed: int, init: str) -> np.ndarray:
        """The signs that ``seed`` draws for the kept weights, as bits: uint8 (ceil(kept / 8),).

        Args:
            seed: of the search; the stream has the name of the layer.
            init: initializer of the search, see :mod:`mpt.search.initializers`.
        """
        if init == "unsigned_constant":
            return pack_bits(np.ones(self.kept, dtype=bool))
        drawn = random_sign_bits(self.num_weights, seed=seed, layer=self.stored_as)
        return select_bits(drawn, self.parts["mask"].numpy(), n=self.num_weights)

    def has_seed_signs(self, *, seed: int | None, init: str | None) -> bool:
        """Whether the signs of the kept weights are those that ``seed`` draws; False without a seed."""
        if seed is None or init is None:
            return False
        own = self.parts["signs"].numpy() if self.form != "real" else pack_bits((self.signs() > 0).numpy())
        return bool(np.array_equal(self.seed_signs(seed=seed, init=init), own))

    def kept_values(self) -> Tensor:
        """Ticket weights of the kept weights in flat order, float32 (kept,)."""
        if self.form == "real":
            return self.parts["values"]
        gain = self.gain if self.gain.dim() == 0 else self.gain.expand(self.shape)[self.mask()]
        return self.signs().mul_(gain * torch.from_numpy(self.levels()) if self.coats else gain)

    def planes(self) -> list[tuple[int, int]]:
        """Of each mask after the first: the weights that the one before it keeps, and those that it keeps."""
        return list(zip((self.kept, *self.coats), self.coats, strict=False))

    def levels(self) -> np.ndarray:
        """How many masks keep each kept weight, float32 (kept,) in flat order."""
        levels, last, start = np.ones(self.kept, dtype=np.float32), np.arange(self.kept), 0
        for before, _ in self.planes():
            packed = self.parts["coats"].numpy()[start : start + (before + 7) // 8]
            last, start = last[unpack_bits(packed, n=before)], start + packed.size
            levels[last] += 1
        return levels

    def weight(self) -> Tensor:
        """Ticket weight, float32, of the weight's shape: 0 where pruned."""
        weight = torch.zeros(self.shape)
        weight.numpy()[self.mask().numpy()] = self.kept_values().numpy()  # takes half of torch's time
        return weight

    def table_row(self, *, prune: float | None) -> LayerRow:
        """The row of a table; ``prune`` is the fraction that the search removed of this layer by its name, or None."""
        return LayerRow(
            printable(self.name, SHOWN),
            self.shape,
            self.num_weights,
            self.kept,
            float(self.kept_values().double().abs().mean()),
            self.bits,
            self.binary_input,
            prune,
            printable(self.tied, SHOWN) if self.tied else None,
        )

    def row(self) -> dict[str, Any]:
        """The header row, plain JSON."""
        row = {"name": self.name, "shape": list(self.shape), "kept": self.kept, "form": self.form}
        row |= {"coats": list(self.coats)} if self.coats else {}
        return row | ({"tied": self.tied} if self.tied else {}) | {"binary_input": self.binary_input}


def pack_coats(levels: np.ndarray) -> tuple[Tensor, tuple[int, ...]]:
    """The part ``coats`` of kept weights that so many masks keep, and how many weights each mask after the first keeps.

    Args:
        levels: (kept,), whole numbers from 1, in flat order.
    """
    planes, counts = [np.empty(0, dtype=np.uint8)], []
    for level in range(2, int(levels.max()) + 1):
        planes.append(pack_bits(levels >= level))
        levels = levels[levels >= level]
        counts.append(levels.size)
    return torch.from_numpy(np.concatenate(planes)), tuple(counts)


@dataclass(frozen=True)
class StoredState:
    """A parameter or buffer of a ticket that was not searched.

    Attributes:
        name: in the network's state dict.
        trained: whether a parameter is trained (True) or frozen (False); None for a buffer.
        value: float32, int64 or bool.
    """

    name: str
    trained: bool | None
    value: Tensor = field(repr=False, compare=False)

    @classmethod
    def from_row(cls, row: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> StoredState:
        """The state of a header row, with its value from all tensors of the ticket."""
        return cls(row["name"], row["trained"], tensors[row["name"]])

    def table_row(self) -> ParameterRow:
        """The row of a table."""
        word = {True: "trained", False: "frozen", None: "buffer"}[self.trained]
        bits = 8 * self.value.nbytes
        return ParameterRow(printable(self.name, SHOWN), tuple(self.value.shape), self.value.numel(), word, bits)

    def row(self) -> dict[str, Any]:
        """The header row, plain JSON."""
        return {"name": self.name, "shape": list(self.value.shape), "trained": self.trained}
