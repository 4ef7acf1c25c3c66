"""Tickets that come with mpt: small ones, each found by the command that its entry names.

mpt.zoo.list();  ticket = mpt.zoo.load("digits-conv4")
"""

from __future__ import annotations

import builtins
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mpt.files import HOME, DamagedError
from mpt.ticket.ticket import Ticket

_IN_WHEEL = HOME / "tickets"
FOLDER = _IN_WHEEL if _IN_WHEEL.is_dir() else HOME / "results" / "tickets"


@dataclass(frozen=True)
class Entry:
    """One ticket of the zoo.

    Attributes:
        name: what :func:`load` takes.
        command: that found it.
        test_acc: fraction of the ``num_test`` test images that it classifies right, measured on the file.
        num_test: test images.
        num_weights: weights of the searched layers.
        prune: fraction of them that is pruned.
        binary_activations: MPT-1/1 instead of MPT-1/32.
        bits_per_weight: of the file, with everything in it.
        speedup: of ``mpt.compile`` against the same network in torch, one picture at a time, on one thread of
            ``hardware``.
        hardware: on which ``speedup`` was measured.
        digest: of the content, :attr:`mpt.Ticket.digest`.
    """

    name: str
    command: str
    test_acc: float
    num_test: int
    num_weights: int
    prune: float
    binary_activations: bool
    bits_per_weight: float
    speedup: float
    hardware: str
    digest: str

    @property
    def path(self) -> Path:
        """Where the file is."""
        return FOLDER / f"{self.name}.safetensors"


@cache
def _entries() -> dict[str, Entry]:
    rows = json.loads((FOLDER / "tickets.json").read_text())
    return {row["name"]: Entry(**row) for row in rows}


def list() -> builtins.list[Entry]:
    """All tickets, in the order of their names."""
    return sorted(_entries().values(), key=lambda entry: entry.name)


def load(name: str) -> Ticket:
    """The ticket ``name``.

    Raises:
        ValueError: there is none of this name, or its file is not the one that was measured.
    """
    if name not in _entries():
        raise ValueError(f"there is no ticket {name!r} in the zoo: take one of {', '.join(sorted(_entries()))}")
    entry = _entries()[name]
    ticket = Ticket.load(entry.path)
    if ticket.digest != entry.digest:
        raise DamagedError(f"{entry.path} is not the ticket {name} that was measured: install mpt again")
    return ticket
