"""mpt: multi-prize lottery tickets. Find them in any backbone, measure them, and save them as a file of bits.

Each public name is imported on first use, so that ``import mpt`` takes almost no time and never imports torch.
"""

from __future__ import annotations

import mpt.startup  # noqa: F401  # before all others, which can be interrupted

# isort: split
import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpt import backbones, data
    from mpt.commands.search import search
    from mpt.engine.engine import compile
    from mpt.search.activations import BinaryActivation
    from mpt.search.convert import convert, to_dense
    from mpt.search.epochs import start_epoch
    from mpt.search.layers import frozen
    from mpt.search.methods import Biprop, Dense, EdgePopup, Method
    from mpt.search.successors import Gem, Gumbel, IteRand, Recycle, Signed
    from mpt.search.supermasks import Multicoated, PartlyFrozen
    from mpt.search.table import layer_table
    from mpt.theory.construct import construct
    from mpt.ticket import zoo
    from mpt.ticket.ticket import Ticket

_HOMES = {
    "BinaryActivation": "mpt.search.activations",
    "Biprop": "mpt.search.methods",
    "Dense": "mpt.search.methods",
    "EdgePopup": "mpt.search.methods",
    "Gem": "mpt.search.successors",
    "Gumbel": "mpt.search.successors",
    "IteRand": "mpt.search.successors",
    "Method": "mpt.search.methods",
    "Multicoated": "mpt.search.supermasks",
    "PartlyFrozen": "mpt.search.supermasks",
    "Recycle": "mpt.search.successors",
    "Signed": "mpt.search.successors",
    "Ticket": "mpt.ticket.ticket",
    "compile": "mpt.engine.engine",
    "construct": "mpt.theory.construct",
    "convert": "mpt.search.convert",
    "frozen": "mpt.search.layers",
    "layer_table": "mpt.search.table",
    "start_epoch": "mpt.search.epochs",
    "to_dense": "mpt.search.convert",
}
_MODULES = {"backbones": "mpt.backbones", "data": "mpt.data", "search": "mpt.search", "zoo": "mpt.ticket.zoo"}

__all__ = [
    "BinaryActivation",
    "Biprop",
    "Dense",
    "EdgePopup",
    "Gem",
    "Gumbel",
    "IteRand",
    "Method",
    "Multicoated",
    "PartlyFrozen",
    "Recycle",
    "Signed",
    "Ticket",
    "backbones",
    "compile",
    "construct",
    "convert",
    "data",
    "frozen",
    "layer_table",
    "search",
    "start_epoch",
    "to_dense",
    "zoo",
]


class _Search(ModuleType):
    """The room ``mpt.search``, which is a function of the package as well."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return importlib.import_module("mpt.commands.search").search(*arguments, **settings)


class _Package(ModuleType):
    """This package, in which whoever imports a part of the room ``search`` leaves ``mpt.search`` callable."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "search":
            value.__class__ = _Search
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name == "__version__":
        return importlib.import_module("mpt.files").version()
    raise AttributeError(f"module 'mpt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
