"""LLVM IR as text, and machine code from it: the only file that talks to LLVM (llvmlite, which numba brings).

A :class:`Function` is a list of lines. ``loop`` writes the blocks of a counted loop, whose carried values LLVM keeps in
registers::

    f = Function("sum", "ptr %x, i64 %n")
    with f.loop("0", "%n", carried=[("float", "0.0")]) as loop:
        loop.next = [f.do(f"fadd float {loop.values[0]}, {f.load('float', f.at('float', '%x', loop.index))}")]
    # loop.values[0] is the sum here

:class:`Machine` says for which processor: how many float32 a vector has and how many vectors of sums the registers
hold. One definition of all kernels serves AVX-512 (16 lanes), AVX2 (8), NEON and SSE (4).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mpt.files import write_atomically

VERSION = b"1"  # of all code made here: raise it when a kernel changes, so that objects of older code are not used


@dataclass(frozen=True)
class Machine:
    """What code is made for.

    Attributes:
        triple: LLVM's name of processor kind and system.
        lanes: float32 in a vector.
        sums: vectors of sums that the registers hold next to what is loaded.
    """

    triple: str
    cpu: str
    features: str
    lanes: int
    sums: int

    @classmethod
    def host(cls, *, lanes: int | None = None) -> Machine:
        """This machine; with fewer ``lanes``, this machine as if it had narrower vectors."""
        binding = _binding()
        features = binding.get_host_cpu_features()
        names = {name for name, there in features.items() if there}
        wide = 16 if "avx512vl" in names and "avx512bw" in names else 8 if "avx2" in names else 4
        flat = features.flatten()
        if lanes is not None and lanes < wide:
            flat += ",-avx512f" if lanes == 8 else ",-avx512f,-avx" if wide > 4 else ""
        lanes = min(lanes or wide, wide)
        many = lanes == 16 or "neon" in names  # 32 registers
        return cls(binding.get_process_triple(), binding.get_host_cpu_name(), flat, lanes, 28 if many else 13)

    def target(self, *, fast: bool, linked: bool = False) -> Any:
        """LLVM's target machine; ``fast`` compiles quickly, else it optimises.

        Code for this process (not ``linked``) reaches its constants by whole addresses: they may lie anywhere.
        """
        target, optimise = _binding().Target.from_triple(self.triple), 0 if fast else 2
        model = ("pic", "default") if linked else ("static", "large")
        return target.create_target_machine(self.cpu, self.features, optimise, reloc=model[0], codemodel=model[1])


@cache
def _binding() -> Any:
    import llvmlite.binding as binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding


class Loop:
    """A loop that is being written: its counter, the carried values, and what they are in the next round."""

    def __init__(self, index: str, values: list[str]) -> None:
        self.index, self.values, self.next = index, values, list[str]()


class Function:
    """One function of IR text; see the file's head."""

    def __init__(self, name: str, parameters: str, *, public: bool = False, plain: bool = False) -> None:
        """``public`` for callers of the object; ``plain`` for what is not worth LLVM's time: calls of other functions."""
        how = f"define {'' if public else 'internal '}void @{name}({parameters}) nounwind noinline{' optnone' * plain}"
        self.name, self.lines = name, [f"{how} {{", "entry:"]
        self.count, self.block = 0, "entry"

    def new(self, prefix: str = "v") -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def do(self, operation: str) -> str:
        """Write an operation; the name of its result."""
        name = f"%{self.new()}"
        self.lines.append(f"  {name} = {operation}")
        return name

    def say(self, operation: str) -> None:
        """Write an operation without a result."""
        self.lines.append(f"  {operation}")

    def start(self, block: str) -> None:
        self.lines.append(f"{block}:")
        self.block = block

    def at(self, kind: str, base: str, index: str | int) -> str:
        """Address of entry ``index`` of an array of ``kind``."""
        return base if str(index) == "0" else self.do(f"getelementptr {kind}, ptr {base}, i64 {index}")

    def load(self, kind: str, address: str, align: int = 1) -> str:
        return self.do(f"load {kind}, ptr {address}, align {align}")

    def store(self, kind: str, value: str, address: str, align: int = 1) -> None:
        self.say(f"store {kind} {value}, ptr {address}, align {align}")

    def int(self, operation: str, a: str | int, b: str | int) -> str:
        """``a operation b`` in i64, made here where both are known."""
        if isinstance(a, int) and isinstance(b, int):
            return str({"add": a + b, "mul": a * b, "sub": a - b}[operation])
        if (operation == "mul" and 1 in (a, b)) or (operation == "add" and 0 in (a, b)):
            return str(b if a in (0, 1) and isinstance(a, int) else a)
        return self.do(f"{operation} i64 {a}, {b}")

    def index(self, base: str, entry: str) -> str:
        """Entry of an array of int32, as i64."""
        return self.do(f"sext i32 {self.load('i32', self.at('i32', base, entry))} to i64")

    @contextmanager
    def loop(
        self,
        start: str | int,
        stop: str | int,
        *,
        step: int = 1,
        carried: Sequence[tuple[str, str]] = (),
        partial: bool = False,
    ) -> Iterator[Loop]:
        """A loop from ``start`` while ``index + step <= stop``, or ``index < stop`` where the last round may be partial.

        Afterwards ``values`` are those of its end.
        """
        whole = step > 1 and not partial
        head, body, done = self.new("head"), self.new("body"), self.new("done")
        before, index = self.block, f"%{self.new('i')}"
        self.say(f"br label %{head}")
        self.start(head)
        place = len(self.lines)
        loop = Loop(index, [f"%{self.new('c')}" for _ in carried])
        limit = self.do(f"add i64 {index}, {step}") if whole else index
        test = self.do(f"icmp {'sle' if whole else 'slt'} i64 {limit}, {stop}")
        self.say(f"br i1 {test}, label %{body}, label %{done}")
        self.start(body)
        yield loop
        after = self.do(f"add nsw i64 {index}, {step}")
        end = self.block
        self.say(f"br label %{head}")
        phis = [f"  {index} = phi i64 [ {start}, %{before} ], [ {after}, %{end} ]"]
        for (kind, first), value, last in zip(carried, loop.values, loop.next, strict=True):
            phis.append(f"  {value} = phi {kind} [ {first}, %{before} ], [ {last}, %{end} ]")
        self.lines[place:place] = phis
        self.start(done)

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """Lines that run only where ``condition`` (i1) holds."""
        then, done = self.new("then"), self.new("done")
        self.say(f"br i1 {condition}, label %{then}, label %{done}")
        self.start(then)
        yield
        self.say(f"br label %{done}")
        self.start(done)

    def text(self) -> str:
        return "\n".join([*self.lines, "  ret void", "}", ""])


class Data:
    """The numbers that code reads: arrays one after another, each at a multiple of 64 bytes, equal ones once."""

    def __init__(self) -> None:
        self.parts, self.size = list[bytes](), 0
        self._known: dict[bytes, int] = {}

    def put(self, array: np.ndarray) -> int:
        """Offset of the numbers of ``array`` in bytes."""
        content = np.ascontiguousarray(array).tobytes()
        known = self._known.get(content) if len(content) < 65_536 else None
        if known is not None:
            return known
        start = self._known[content] = self.size
        self.parts.append(content + bytes(-len(content) % 64))
        self.size += len(self.parts[-1])
        return start

    def reserve(self, size: int) -> int:
        """Offset of ``size`` bytes that are filled in later."""
        start = self.size
        self.parts.append(bytes(size + -size % 64))
        self.size += len(self.parts[-1])
        return start


class Module:
    """Functions of IR text by name, and the numbers that they read."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.data = machine, Data()
        self.functions: dict[str, Function] = {}
        self.declared: dict[str, None] = {}
        self._names: dict[tuple[object, ...], str] = {}

    def shared(self, key: tuple[object, ...], write: Callable[[Function], None], parameters: str) -> str:
        """Name of the function that ``write`` writes, once for each ``key``."""
        if key not in self._names:
            name = self._names[key] = f"{key[0]}{len(self._names)}"
            self.functions[name] = Function(name, parameters)
            write(self.functions[name])
        return self._names[key]

    def declare(self, line: str) -> None:
        self.declared[f"declare {line}"] = None

    def text(self) -> str:
        parts = [f"{line}\n" for line in self.declared]
        return "".join([*parts, *(function.text() for function in self.functions.values())])


def optimised(text: str, machine: Machine) -> bytes:
    """The object of a module of loops, which LLVM makes vectors of. Unrolling them takes as long again and gains nothing."""
    binding = _binding()
    module, target = _parsed(text, machine), machine.target(fast=False)
    options = binding.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization, options.loop_interleaving, options.loop_unrolling = True, False, False
    builder = binding.create_pass_builder(target, options)
    builder.getModulePassManager().run(module, builder)
    return bytes(target.emit_object(module))


def straight(text: str, machine: Machine) -> bytes:
    """The object of straight-line code, made by LLVM's fast path: its optimiser takes fifty times as long for it."""
    module = _parsed(text, machine)
    return bytes(machine.target(fast=True).emit_object(module))


def _parsed(text: str, machine: Machine) -> Any:
    return _binding().parse_assembly(f'target triple = "{machine.triple}"\n{text}')


def cached(key: bytes, machine: Machine, make: Callable[[], bytes]) -> bytes:
    """The object of ``key``, from the cache or made by ``make`` and kept there."""
    found = kept(key, machine)
    if found is None:
        found = make()
        keep(key, machine, found)
    return found


def kept(key: bytes, machine: Machine) -> bytes | None:
    """The object of ``key`` that the cache holds; None if it holds none, or one that its checksum calls damaged."""
    with suppress(OSError):
        content = _path(key, machine).read_bytes()
        if len(content) > 32 and hashlib.blake2b(content[32:], digest_size=32).digest() == content[:32]:
            return content[32:]
    return None


def keep(key: bytes, machine: Machine, content: bytes) -> None:
    """Put an object into the cache; a directory that cannot be written to is done without."""
    path = _path(key, machine)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, hashlib.blake2b(content, digest_size=32).digest() + content)


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


class Library:
    """Objects in this process's memory, for as long as this lives."""

    def __init__(self, objects: Sequence[bytes], machine: Machine) -> None:
        binding = _binding()
        self._engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine.target(fast=True))
        for content in objects:
            self._engine.add_object_file(binding.ObjectFileRef.from_data(content))
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        """Where the function ``name`` begins."""
        found = int(self._engine.get_function_address(name))
        assert found, name
        return found

    def function(self, name: str, *parameters: Any) -> Callable[..., None]:
        """The function ``name`` as one of Python's, which runs without the interpreter's lock."""
        return ctypes.CFUNCTYPE(None, *parameters)(self.address(name))
