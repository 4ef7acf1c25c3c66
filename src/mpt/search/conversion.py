"""The record of a conversion: what :func:`mpt.convert` did to a backbone; a network and its ticket keep it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mpt.search.methods import Method


@dataclass(frozen=True)
class Sign:
    """One activation that becomes a sign.

    Args:
        activation: name of its module.
        behind: name of the pool or batch-norm that the sign follows; None if the sign takes the activation's place.
        features: number of features of the batch-norm in front of the sign; None for no batch-norm.
        dims: dimensions of the sign's input, batch included; they decide the kind of batch-norm.
    """

    activation: str
    behind: str | None
    features: int | None
    dims: int


@dataclass(frozen=True)
class Signs:
    """All activations of a backbone that became signs, and ``t`` of the signs."""

    t: float
    signs: tuple[Sign, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON; :meth:`from_dict` reads it."""
        return {"t": self.t, "signs": [asdict(sign) for sign in self.signs]}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Signs:
        """The signs that ``plain`` describes; ValueError if it does not describe any."""
        try:
            return cls(float(plain["t"]), tuple(Sign(**sign) for sign in plain["signs"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the ticket's binary_activations cannot be read: {error!r}") from error


@dataclass(frozen=True)
class Conversion:
    """How a network was converted; ``convert`` leaves it on the copy as ``net.conversion``."""

    method: Method
    seed: int | None
    dropped: tuple[str, ...] = ()  # the backbone's parameters that the copy lacks: biases, batch-norm scales
    signs: Signs | None = None  # the activations rewritten for binary activations, if any
    binary_inputs: tuple[str, ...] = ()  # layers that see only -1 and +1
    reads: tuple[str, ...] = ()  # layers that their module reads the weight of instead of calling them
    epoch: int | None = None  # from the last call of start_epoch
    stored: Mapping[str, Any] | None = None  # of a network from a ticket file: what its header says of the search

    @property
    def from_file(self) -> bool:
        """Whether the network was built from a ticket file: its layers keep what the file says."""
        return self.stored is not None

    def as_dict(self) -> dict[str, Any]:
        """What a ticket's header says of the search: its method, and the shares of a pattern if there is one."""
        if self.stored is not None:
            return dict(self.stored)
        pattern = self.method.pattern
        named = {"name": type(self.method).__name__, **asdict(self.method)}
        return {"method": named, **({"pattern": list(pattern)} if pattern else {})}
