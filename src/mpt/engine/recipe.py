"""What a compiled ticket consists of, and how it is kept: the second time, neither its network nor its lists are made.

A recipe names the objects of a ticket, which the cache holds (:mod:`mpt.engine.objects`), and has the numbers that they
read. Its key is the ticket's digest, the options, and all code that the recipe depends on. A file has an entry of its
own, from the digest of its bytes to the digest of its ticket, so that a file that was compiled before is not decoded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np

from mpt.engine import objects, unrolled
from mpt.engine.code import Machine
from mpt.engine.graph import Node, Shape
from mpt.engine.program import program

ROOMS = ("backbones", "search", "ticket", "engine")  # whose code makes a recipe from a ticket
LIBRARIES = ("torch", "torchvision", "timm")  # and whose versions


@dataclass(frozen=True)
class Recipe:
    """All of a compiled ticket but its objects.

    Attributes:
        name: of the network.
        kind: how products are computed, and by vectors of how many.
        shape: of an image.
        last: shape of the result of an image.
        work: bytes of memory that one thread needs.
        keys: of the objects.
        entries: where in the data address and size of which function are expected, and the size.
        data: what the objects read.
    """

    name: str
    kind: str
    shape: Shape
    last: Shape
    work: int
    keys: list[bytes]
    entries: list[tuple[int, str, int]]
    data: bytearray

    def linked(self, library: objects.Library) -> bytearray:
        """The data with the addresses of the functions."""
        for offset, name, size in self.entries:
            self.data[offset : offset + 16] = np.array([library.address(name), size], np.int64).tobytes()
        return self.data

    def to_bytes(self) -> bytes:
        about = {**vars(self), "keys": [key.hex() for key in self.keys]}
        return json.dumps({name: x for name, x in about.items() if name != "data"}).encode() + b"\n" + self.data

    @classmethod
    def from_bytes(cls, content: bytes) -> Recipe:
        head, _, data = content.partition(b"\n")
        about = json.loads(head)
        about |= {"keys": [bytes.fromhex(key) for key in about["keys"]], "entries": [*map(tuple, about["entries"])]}
        about |= {name: tuple(about[name]) for name in ("shape", "last")}
        return cls(**about, data=bytearray(data))


def make(
    nodes: Sequence[Node], *, machine: Machine, unroll: bool = False, name: str = "a network"
) -> tuple[Recipe, list[bytes]]:
    """The recipe of the operations ``nodes`` and its objects, from the cache or made now."""
    made = program(nodes, machine=machine, unroll=unroll)
    key = hashlib.blake2b(made.text.encode()).digest()
    steps = objects.cached(key, machine, lambda: objects.optimised(made.text, machine))
    keys = [key, *(layer.key for layer in made.layers)]
    kind = f"{'unrolled' if unroll else 'lists'}, vectors of {machine.lanes}"
    recipe = Recipe(name, kind, nodes[0].shape, nodes[-1].shape, made.work, keys, made.entries(), made.data)
    return recipe, [steps, *unrolled.objects(made.layers, machine=machine)]


def kept(key: bytes, machine: Machine) -> tuple[Recipe, list[bytes]] | None:
    """The recipe of ``key`` with its objects, if the cache holds them all."""
    content = objects.kept(key, machine)
    if content is None:
        return None
    recipe = Recipe.from_bytes(content)
    found = [objects.kept(key, machine) for key in recipe.keys]
    return (recipe, [object_ for object_ in found if object_ is not None]) if None not in found else None


def key_of(digest: str, *options: object) -> bytes:
    """The key of the recipe of the ticket with this digest."""
    return f"recipe {digest} {options} {_code()}".encode()


def key_of_file(path: Path) -> bytes | None:
    """The key under which the digest of a file's ticket is kept; None for a file that cannot be read."""
    try:
        content = path.read_bytes()
    except OSError:  # whoever loads the ticket says why
        return None
    return f"file {hashlib.blake2b(content).hexdigest()} {_code()}".encode()


@cache
def _code() -> str:
    """A digest of the code that a recipe depends on, and the versions of libraries that it was made with."""
    package, digest = Path(__file__).parents[1], hashlib.blake2b()
    for path in sorted(path for room in ROOMS for path in (package / room).glob("*.py")):
        digest.update(f"\n{path.name}\n".encode() + path.read_bytes())
    for name in LIBRARIES:
        try:
            digest.update(f"\n{name} {metadata.version(name)}".encode())
        except metadata.PackageNotFoundError:
            continue
    return digest.hexdigest()
