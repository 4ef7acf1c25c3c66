"""IR text or bytes of machine code -> objects, their cache on disk, and their way into this process.

LLVM is llvmlite's, which numba brings. It keeps an object three times in memory. Unrolled code, of which there may be
megabytes, is therefore put where it runs by :class:`_Code`.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mpt.engine.code import LOOPS, Machine, llvm
from mpt.engine.layout import LINE
from mpt.files import DamagedError, read_sealed, write_atomically

LIMIT = 2**30  # bytes of the cache: above it, the objects that were not used for the longest time are removed
VERSION = b"11"  # of all code made here: raise it when a kernel changes, so that objects of older code are not used


def target(machine: Machine, *, fast: bool, linked: bool = False) -> Any:
    """LLVM's target machine; ``fast`` compiles quickly, else it optimises.

    Code for this process (not ``linked``) reaches its constants by whole addresses: they may lie anywhere.
    """
    kind, optimise = llvm().Target.from_triple(machine.triple), 0 if fast else 2
    model = ("pic", "default") if linked else ("static", "large")
    return kind.create_target_machine(machine.cpu, machine.features, optimise, reloc=model[0], codemodel=model[1])


def optimised(text: str, machine: Machine, *, linked: bool = False) -> bytes:
    """The object of a module of functions.

    LLVM's optimiser takes as long as all that makes instructions of its result, so only functions that are marked
    :data:`mpt.engine.code.LOOPS` go through it, in a module of their own: it makes vectors of their loops.
    """
    binding, kind = llvm(), target(machine, fast=False, linked=linked)
    layout = str(kind.target_data) if linked else ""
    head, *functions = re.split("^(?=define )", text, flags=re.MULTILINE)
    loops = {function: function.replace("define internal", "define", 1) for function in functions if LOOPS in function}
    parts = [_declared(function) if function in loops else function for function in functions]
    module = _parsed(head + "".join(parts), machine, layout=layout)
    if loops:
        declared = "".join(line for line in head.splitlines(keepends=True) if line.startswith("declare"))
        other = _parsed(declared + "".join(loops.values()), machine, layout=layout)
        options = binding.create_pipeline_tuning_options(speed_level=2)
        options.loop_vectorization, options.loop_interleaving, options.loop_unrolling = True, False, False
        builder = binding.create_pass_builder(kind, options)
        builder.getModulePassManager().run(other, builder)
        names = [function.name for function in other.functions if not function.is_declaration]
        module.link_in(other)
        for name in names:
            module.get_function(name).linkage = "internal"
    return bytes(kind.emit_object(module))


def _declared(function: str) -> str:
    """The declaration of a function that is in another module."""
    head = function.partition("\n")[0]
    return head[: head.rindex(")") + 1].replace("define internal", "declare", 1) + "\n"


def straight(text: str, machine: Machine) -> bytes:
    """The object of straight-line code, made by LLVM's fast path: its optimiser takes fifty times as long for it."""
    module = _parsed(text, machine)
    return bytes(target(machine, fast=True).emit_object(module))


def encoded(functions: Sequence[tuple[str, bytes]]) -> bytes:
    """The object of functions, (name, machine code) each, that call nothing: a line of where they begin, their code."""
    starts, size = dict[str, int](), 0
    for name, code in functions:
        starts[name] = size
        size += -(-len(code) // LINE) * LINE
    return b"".join([json.dumps(starts).encode() + b"\n", *(code + bytes(-len(code) % LINE) for _, code in functions)])


def _parsed(text: str, machine: Machine, *, layout: str = "") -> Any:
    return llvm().parse_assembly(f'target datalayout = "{layout}"\ntarget triple = "{machine.triple}"\n{text}')


def cached(key: bytes, machine: Machine, make: Callable[[], bytes]) -> bytes:
    """The object of ``key``, from the cache or made by ``make`` and kept there."""
    found = kept(key, machine)
    if found is None:
        found = make()
        keep(key, machine, found)
    return found


def kept(key: bytes, machine: Machine) -> bytes | None:
    """The object of ``key`` that the cache holds; None if it holds none, or a damaged one."""
    path = _path(key, machine)
    try:
        content = read_sealed(path)
        with suppress(OSError):  # of another user
            os.utime(path)  # used now
        return content
    except DamagedError as error:
        print(f"{error}: it is compiled again", file=sys.stderr, flush=True)
    except OSError:  # none yet, or a directory that cannot be read
        pass
    return None


def keep(key: bytes, machine: Machine, content: bytes) -> None:
    """Put an object into the cache; a directory that cannot be written to is done without."""
    path = _path(key, machine)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content, seal=True)
        _shrink(path)


def _shrink(newest: Path) -> None:
    """Remove the objects next to ``newest`` that were not used for the longest time, down to ``LIMIT`` bytes."""
    left = LIMIT - newest.stat().st_size
    others = [(path.stat(), path) for path in newest.parent.glob("*.o") if path != newest and _is_ours(path)]
    for about, path in sorted(others, key=lambda other: other[0].st_mtime_ns, reverse=True):
        left -= about.st_size
        if left < 0:
            path.unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    """Whether the name is a digest, as :func:`_path` makes them: the user may keep other files in the directory."""
    return re.fullmatch("[0-9a-f]{40}", path.stem) is not None


def _path(key: bytes, machine: Machine) -> Path:
    """Where the object of ``key`` is: the name is a digest of all that it depends on."""
    import llvmlite

    about = f"{machine}\n{llvmlite.__version__}\n".encode()
    return directory() / f"{hashlib.blake2b(VERSION + about + key, digest_size=20).hexdigest()}.o"


def directory() -> Path:
    """Where objects are kept: ``MPT_CACHE``, or the user's cache directory."""
    if own := os.environ.get("MPT_CACHE"):
        return Path(own)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "mpt" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mpt"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mpt"


def large_pages(size: int) -> mmap.mmap:
    """``size`` bytes of nought, in large pages where the system has them: the processor looks fewer addresses up."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return mmap.mmap(-1, max(size, 1))
    memory = mmap.mmap(-1, max(size, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


class _Code:
    """Objects of :func:`encoded`, in memory that can be run and no longer written to."""

    def __init__(self, objects: Sequence[bytes]) -> None:
        parts = [object_.partition(b"\n") for object_ in objects]
        size, place, self.starts = sum(len(code) for _, _, code in parts), 0, dict[str, int]()
        self._memory = large_pages(size)
        first = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        for head, _, code in parts:
            self.starts |= {name: first + place + start for name, start in json.loads(head).items()}
            self._memory[place : place + len(code)] = code
            place += len(code)
        run = mmap.PROT_READ | mmap.PROT_EXEC
        if ctypes.CDLL(None).mprotect(ctypes.c_void_p(first), ctypes.c_size_t(max(size, 1)), run):
            raise OSError("this system lets no program run code that it wrote: leave out unroll=True")


class Library:
    """Objects in this process's memory, for as long as this lives."""

    def __init__(self, objects: Sequence[bytes], machine: Machine) -> None:
        binding = llvm()
        self._engine = binding.create_mcjit_compiler(binding.parse_assembly(""), target(machine, fast=True))
        for content in objects:
            if not content.startswith(b"{"):
                self._engine.add_object_file(binding.ObjectFileRef.from_data(content))
        self._engine.finalize_object()
        own = [content for content in objects if content.startswith(b"{")]
        self._code = _Code(own) if own else None

    def address(self, name: str) -> int:
        """Where the function ``name`` begins."""
        known = self._code.starts.get(name) if self._code else None
        found = known or int(self._engine.get_function_address(name))
        assert found, name
        return found

    def function(self, name: str, *parameters: Any) -> Callable[..., None]:
        """The function ``name`` as one of Python's, which runs without the interpreter's lock."""
        return ctypes.CFUNCTYPE(None, *parameters)(self.address(name))
