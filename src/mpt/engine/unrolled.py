"""Products as straight-line code: the mask and signs of a layer written out, without a list.

A block is the code of as many outputs as the registers hold sums (28 vectors of 16 with AVX-512). It walks through its
inputs in the order of memory: each vector of inputs is loaded once, then added to the sums of the outputs that keep it
with +1, and subtracted from those that keep it with -1::

    x = load input + 1088          the offset is part of the instruction
    s3 = s3 + x                    output 3 keeps this weight, with +1
    s17 = s17 - x

The IR is text, and LLVM makes machine code of it at its lowest level, one instruction for one: 100,000 to 200,000 kept
weights a second, 6 to 9 bytes each. Its optimiser takes fifty times as long for code that is no faster. Only loads,
additions, subtractions and stores stand here, since one instruction that the fast path does not know makes its whole
block slow: scale, shift, residual and ReLU are a kernel of their own, behind a table of the blocks' addresses.

Objects are kept in the user's cache directory, one a layer, by a digest of all offsets and signs.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mpt.engine import objects as store
from mpt.engine.code import Function, Machine
from mpt.engine.lanes import parts
from mpt.engine.layout import LINE, Product
from mpt.engine.lists import finish

RATE = 120_000  # kept weights a second, on one core of 2023
PATIENCE = 8  # seconds of building that need no announcement


@dataclass(frozen=True)
class Block:
    """One function: ``taps`` from ``start`` to ``stop`` are its own, and it writes ``outputs`` sums."""

    name: str
    start: int
    stop: int
    outputs: int


@dataclass(frozen=True)
class Unrolled:
    """The straight-line code of one layer.

    Attributes:
        taps: int32 (kept, 2): offset of the input in bytes, and output within the block; by block, then by offset.
        signs: int8 (kept,).
        blocks: its functions. Every ``machine.sums`` outputs have one, or with bytes one for each part of the inputs.
        starts: int32: the first function of each of these groups of outputs, and the number of functions.
        kind: of a vector in LLVM: ``<16 x float>``.
    """

    taps: np.ndarray
    signs: np.ndarray
    blocks: list[Block]
    starts: np.ndarray
    kind: str

    def size(self, block: Block) -> int:
        """About how many bytes of code a function has: six an addition, ten a load or store."""
        offsets = self.taps[block.start : block.stop, 0]
        loads = np.count_nonzero(np.diff(offsets)) + len(offsets[:1]) + block.outputs
        return 6 * len(offsets) + 10 * int(loads)

    @property
    def key(self) -> bytes:
        """Digest of all that the object depends on but the machine."""
        digest = hashlib.blake2b(f"{self.blocks} {self.kind}\n".encode())
        digest.update(self.taps.tobytes())
        digest.update(self.signs.tobytes())
        return digest.digest()


def unrolled(step: Product, name: str, *, machine: Machine, kind: str) -> Unrolled:
    """What is to be written for a step whose weights have signs; ``kind`` is the vector of inputs."""
    conv = step.conv
    assert conv.signs is not None
    outputs, signs = conv.outputs, conv.signs.ravel()
    places = np.flatnonzero(signs)  # of one dimension: much the fastest
    o, tap = np.divmod(places, conv.signs[0].size)
    first = o // (outputs // conv.groups) * conv.signs[0].size
    offsets = (step.offsets.ravel() * step.source.size)[first + tap]
    group = o // machine.sums
    order = np.argsort(group * (int(offsets.max(initial=0)) + 1) + offsets, kind="stable")
    taps = np.stack([offsets, o % machine.sums], axis=1).astype(np.int32)[order]
    bounds = np.searchsorted(group[order], np.arange(-(-outputs // machine.sums) + 1))
    blocks, starts = list[Block](), [0]
    for i, (start, stop) in enumerate(pairwise(bounds.tolist())):
        many = min(machine.sums, outputs - i * machine.sums)
        for first, end in parts(taps[start:stop], many) if step.binary else [(0, stop - start)]:
            blocks.append(Block(f"{name}_{len(blocks)}", start + first, start + end, many))
        starts.append(len(blocks))
    return Unrolled(taps, signs[places[order]], blocks, np.array(starts, np.int32), kind)


def text(layer: Unrolled, *, alone: bool = True) -> str:
    """IR of all functions of a layer, for a module of their own (``alone``) or one that LLVM optimises."""
    return "".join(_function(layer, block, alone) for block in layer.blocks)


def _function(layer: Unrolled, block: Block, alone: bool) -> str:
    """IR of one function: a tile's inputs begin at ``i``, the sums go to ``s``, ``z`` is a vector of zeros."""
    kind = layer.kind
    taps, signs = layer.taps[block.start : block.stop].tolist(), layer.signs[block.start : block.stop].tolist()
    add, subtract = ("add", "sub") if "i" in kind else ("fadd", "fsub")
    head, how = ("define", "nounwind") if alone else ("define internal", "nounwind noinline optnone")
    lines = [f"{head} void @{block.name}(ptr %i, ptr %s, ptr %z) {how} {{", f"%n=load {kind},ptr %z,align 1"]
    sums: dict[int, str] = {}
    last = -1
    for count, ((offset, output), sign) in enumerate(zip(taps, signs, strict=True)):
        if offset != last:
            lines.append(f"%g{count}=getelementptr i8,ptr %i,i64 {offset}\n%x{count}=load {kind},ptr %g{count},align 1")
            x, last = f"%x{count}", offset
        before = sums.get(output)
        if before is None and sign > 0:
            sums[output] = x
        else:
            lines.append(f"%a{count}={add if sign > 0 else subtract} {kind} {before or '%n'},{x}")
            sums[output] = f"%a{count}"
    for output in range(block.outputs):
        lines.append(f"%p{output}=getelementptr {kind},ptr %s,i64 {output}")
        lines.append(f"store {kind} {sums.get(output, '%n')},ptr %p{output},align 1")
    return "\n".join([*lines, "ret void\n}\n"])


def objects(layers: list[Unrolled], *, machine: Machine) -> list[bytes]:
    """The object of each layer, from the cache or made now; says so first where that takes longer than ``PATIENCE``."""
    found = [store.kept(layer.key, machine) for layer in layers]
    weights = sum(len(layer.signs) for layer, object_ in zip(layers, found, strict=True) if object_ is None)
    if weights > RATE * PATIENCE:
        print(
            f"mpt.compile: unrolling {weights:,} weights takes about {weights / RATE:.0f} s; the next time it is kept",
            file=sys.stderr,
            flush=True,
        )
    return [object_ or _made(layer, machine) for layer, object_ in zip(layers, found, strict=True)]


def _made(layer: Unrolled, machine: Machine) -> bytes:
    made = store.straight(text(layer), machine)
    store.keep(layer.key, machine, made)
    return made


def entry(f: Function, index: str) -> str:
    """Address of function ``index`` in the table, after the next one was called into the cache.

    The processor fetches instructions from its outer cache a line at a time, each when it needs it: 3 GB/s. Asked for
    as data, in time, they come several times as fast.
    """
    next_one = f.at("i8", "%lists", f.i64("mul", f.i64("add", index, 1), 16))
    code, size = f.load("ptr", next_one), f.load("i64", f.at("i8", next_one, 8))
    with f.loop("0", size, step=LINE, partial=True) as line:
        f.say(f"call void @llvm.prefetch.p0(ptr {f.at('i8', code, line.index)}, i32 0, i32 2, i32 1)")
    return f.load("ptr", f.at("i8", "%lists", f.i64("mul", index, 16)))


def kernel(f: Function, *, vector: int, sums: int, residual: bool) -> None:
    """The loop over blocks and tiles; ``lists`` is the table of the blocks' addresses, ``outputs`` counts outputs."""
    kind = f"<{vector} x float>"
    results, zero = f.do(f"alloca [{sums} x {kind}], align 64"), f.do(f"alloca {kind}, align 64")
    f.store(kind, "zeroinitializer", zero)
    with f.loop("0", "%outputs", step=sums, partial=True) as first:
        block = entry(f, f.do(f"sdiv i64 {first.index}, {sums}"))
        left = f.i64("sub", "%outputs", first.index)
        many = f.do(f"select i1 {f.do(f'icmp slt i64 {left}, {sums}')}, i64 {left}, i64 {sums}")
        with f.loop("0", "%tiles") as tile:
            inputs = f.at("float", "%in", f.index("%in_places", tile.index))
            f.say(f"call void {block}(ptr {inputs}, ptr {results}, ptr {zero})")
            with f.loop("0", many) as j:
                value = f.load(kind, f.at(kind, results, j.index))
                finish(f, vector, value, f.i64("add", first.index, j.index), tile.index, residual=residual)
