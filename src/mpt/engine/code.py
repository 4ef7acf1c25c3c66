"""LLVM IR as text; :mod:`mpt.engine.objects` makes machine code of it.

A :class:`Function` is a list of lines. ``loop`` writes the blocks of a counted loop, with the test at
its end, whose carried values LLVM keeps in registers::

    f = Function("sum", "ptr %x, i64 %n")
    with f.loop("0", "%n", carried=[("float", "0.0")]) as loop:
        loop.next = [f.do(f"fadd float {loop.values[0]}, {f.load('float', f.at('float', '%x', loop.index))}")]
    # loop.values[0] is the sum here

:class:`Machine` says for which processor: how many float32 a vector has and how many vectors of sums the registers
hold. One definition of all kernels serves AVX-512 (16 lanes), AVX2 (8), NEON and SSE (4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Machine:
    """What code is made for.

    Attributes:
        triple: LLVM's name of processor kind and system.
        lanes: float32 in a vector.
        sums: vectors of sums that the registers hold next to the values loaded.
        word: bits of an address.
        encoded: whether unrolled code is written as bytes, by :mod:`mpt.engine.encode`; else LLVM makes it.
        space: bytes of such code with one fetch: a fetch brings one line of 64 bytes on AMD's, mostly two on Intel's.
        fused: whether every other addition of such code is ``s = 1 x + s``: AMD's have further units for it.
    """

    triple: str
    cpu: str
    features: str
    lanes: int
    sums: int
    word: int = 64
    encoded: bool = False
    space: int = 96
    fused: bool = False

    @classmethod
    def host(cls, *, lanes: int | None = None, encoded: bool = True) -> Machine:
        """This machine; with fewer ``lanes``, this machine as if it had narrower vectors.

        ``encoded`` allows code that only this process can use.
        """
        binding = llvm()
        features = binding.get_host_cpu_features()
        names = {name for name, there in features.items() if there}
        wide = 16 if "avx512vl" in names and "avx512bw" in names else 8 if "avx2" in names else 4
        flat = features.flatten()
        if lanes is not None and lanes < wide:
            flat += ",-avx512f" if lanes == 8 else ",-avx512f,-avx" if wide > 4 else ""
        lanes = min(lanes or wide, wide)
        many = lanes == 16 or "neon" in names  # 32 registers
        triple, name = binding.get_process_triple(), binding.get_host_cpu_name()
        encoded = encoded and lanes >= 8 and triple.startswith("x86_64") and "linux" in triple
        sums, is_zen = (31 if many else 15) if encoded else (28 if many else 13), encoded and name.startswith("znver")
        fused = is_zen and lanes == 16
        space = 64 if is_zen else 96
        return cls(triple, name, flat, lanes, sums - fused, encoded=encoded, space=space, fused=fused)

    @classmethod
    def of(cls, target: str | None = None, cpu: str | None = None) -> Machine:
        """The machine ``target``, such as aarch64-linux-gnu, with a processor of ``CPUS``: this machine by default.

        Raises:
            ValueError: a target or a processor that the engine does not know.
        """
        binding = llvm()
        if target is None and cpu is None:
            return cls.host(encoded=False)
        target = binding.get_process_triple() if target is None else target
        kind, _, vendor, system, environment, _ = binding.get_triple_parts(target)
        cpus = CPUS.get(kind, {})
        if not cpus or (system == "unknown" and not {*target.split("-")[1:]} <= {"unknown", "none", "elf"}):
            raise ValueError(
                f"target is what to compile for, one of {', '.join(CPUS)} and a system, as in aarch64-linux-gnu, "
                f"got {target}"
            )
        cpu = cpu or next(iter(cpus))
        if cpu not in cpus:
            raise ValueError(f"cpu is the oldest {kind} to run on, one of {', '.join(cpus)}, got {cpu}")
        binding.initialize_all_targets()
        binding.initialize_all_asmprinters()
        triple = "-".join([kind, vendor, system, *[part for part in [environment] if part != "unknown"]])
        return cls(triple, cpu, *cpus[cpu], word=32 if kind == "wasm32" else 64)


CPUS = {  # kind of processor -> name of the oldest to run on, the default first -> features, lanes, sums
    "x86_64": {"x86-64": ("", 4, 13), "x86-64-v3": ("", 8, 13), "x86-64-v4": ("", 16, 28)},
    "aarch64": {"generic": ("", 4, 28)},
    "wasm32": {"generic": ("+simd128", 4, 13)},
}


@cache
def llvm() -> Any:
    import llvmlite.binding as binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    binding.initialize_native_asmparser()
    return binding


LOOPS = '"loops"'  # the attribute of functions whose loops LLVM is to make vectors of


class Loop:
    """A loop that is being written: its counter, the carried values, and what they are in the next round."""

    def __init__(self, index: str, values: list[str]) -> None:
        self.index, self.values, self.next = index, values, list[str]()


class Function:
    """One function of IR text; see the file's head."""

    def __init__(
        self, name: str, parameters: str, *, public: bool = False, plain: bool = False, loops: bool = False
    ) -> None:
        """``public`` for callers of the object; ``plain`` for calls alone, which are not worth LLVM's time.

        ``loops`` has LLVM make vectors of loops of numbers; without it, what is written here is what runs.
        """
        how = f"define {'' if public else 'internal '}void @{name}({parameters}) nounwind noinline"
        self.name, self.lines = name, [f"{how}{' optnone' * plain}{f' {LOOPS}' * loops} {{", "entry:"]
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

    def i64(self, operation: str, a: str | int, b: str | int) -> str:
        """``a operation b`` in i64, made here where both are known."""
        if isinstance(a, int) and isinstance(b, int):
            return str({"add": a + b, "mul": a * b, "sub": a - b}[operation])
        if (operation == "mul" and 1 in (a, b)) or (operation == "add" and 0 in (a, b)):
            return str(b if a in (0, 1) and isinstance(a, int) else a)
        return self.do(f"{operation} i64 {a}, {b}")

    def index(self, base: str, entry: str, *, short: bool = False) -> str:
        """Entry of an array of int32, or of uint16 where it is ``short``, as i64."""
        if short:
            return self.do(f"zext i16 {self.load('i16', self.at('i16', base, entry))} to i64")
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
        """A loop from ``start`` while ``index + step <= stop``, or ``index < stop`` if the last may be ``partial``.

        Afterwards ``index`` and ``values`` are what they are at its end.
        """
        whole = step > 1 and not partial
        stop = self.i64("sub", stop, step) if whole else stop

        def test(index: str | int) -> str:
            return self.do(f"icmp {'sle' if whole else 'slt'} i64 {index}, {stop}")

        body, done, before = self.new("body"), self.new("done"), self.block
        index, values = f"%{self.new('i')}", [f"%{self.new('c')}" for _ in carried]
        loop = Loop(index, values)
        self.say(f"br i1 {test(start)}, label %{body}, label %{done}")
        self.start(body)
        place = len(self.lines)
        yield loop
        after, end = self.do(f"add nsw i64 {index}, {step}"), self.block
        self.say(f"br i1 {test(after)}, label %{body}, label %{done}")
        self.start(done)
        phis, kinds = list[str](), ["i64", *(kind for kind, _ in carried)]
        firsts, lasts = [str(start), *(first for _, first in carried)], [after, *loop.next]
        ends = [f"%{self.new('e')}" for _ in kinds]
        for kind, name, out, first, last in zip(kinds, [index, *values], ends, firsts, lasts, strict=True):
            sources = f"phi {kind} [ {first}, %{before} ], [ {last}, %{end} ]"
            phis.append(f"  {name} = {sources}")
            self.lines.append(f"  {out} = {sources}")
        self.lines[place:place] = phis
        loop.index, loop.values = ends[0], ends[1:]

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

    def shared(
        self, key: tuple[object, ...], write: Callable[[Function], None], parameters: str, *, loops: bool
    ) -> str:
        """Name of the function that ``write`` writes, once for each ``key``; ``loops`` as of :class:`Function`."""
        if key not in self._names:
            name = self._names[key] = f"{key[0]}{len(self._names)}"
            self.functions[name] = Function(name, parameters, loops=loops)
            write(self.functions[name])
        return self._names[key]

    def declare(self, line: str) -> None:
        self.declared[f"declare {line}"] = None

    def text(self) -> str:
        parts = [f"{line}\n" for line in self.declared]
        return "".join([*parts, *(function.text() for function in self.functions.values())])
