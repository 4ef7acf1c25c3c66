"""Products as straight-line code: the mask and signs of a layer written out, without a list.

A block is the code of as many outputs as the registers hold sums (31 vectors of 16 with AVX-512). It walks through its
inputs in the order of memory: each vector of inputs is loaded once, then added to the sums of the outputs that keep it
with +1, and subtracted from those that keep it with -1::

    x = load input + 1088          the offset is part of the instruction
    s3 = s3 + x                    output 3 keeps this weight, with +1
    s17 = s17 - x

A block comes in parts, each a function that goes on with the sums of the one before, if its code is larger than the
processor's innermost cache of instructions, or if a row of tiles reads more than the cache of data holds: the next row
then finds its inputs there. A part runs for several tiles before the next one is fetched.

With AVX-512, an offset takes one byte instead of four where it is a multiple of 64 within 8 KiB of its base. A function
therefore has several bases, one for each remainder of 64 that occurs, and moves them along.

On x86-64 with AVX2 or AVX-512, :mod:`mpt.engine.encode` writes the instructions itself. For any other processor and for
object files, the IR is text, and LLVM makes machine code of it at its lowest level, one instruction for one: 100,000 to
200,000 kept weights a second. Its optimiser takes fifty times as long for code that is no faster. Only loads,
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
from mpt.engine.encode import BYTES, FLOATS, Block, Encoder, functions
from mpt.engine.lanes import parts
from mpt.engine.layout import LINE, Product, fits
from mpt.engine.lists import Epilogue

RATE = {False: 100_000, True: 1_000_000}  # kept weights a second of LLVM, and encoded; on one core of 2023
PATIENCE = 8  # seconds of building that need no announcement
PART = 24_576  # bytes of code that stay in a cache of 32 KiB next to the kernel's own
CACHE = 30_000  # bytes of inputs that stay in a cache of 32 KiB
SUMS = 8_192  # bytes of sums that stay there next to the inputs
TILES = 8  # tiles whose sums are kept between the parts of a block: those of 8 images of 512x4x4 fit a cache of 2 MiB


@dataclass(frozen=True)
class Unrolled:
    """The straight-line code of one layer.

    Attributes:
        taps: int32 (kept, 2): offset of the input in bytes, and output within the block; by block, then by offset.
        signs: int8 (kept,).
        blocks: its functions. Every ``machine.sums`` outputs have one for each part of the inputs.
        starts: int32: the first function of each of these groups of outputs, and the number of functions.
        kind: of a vector in LLVM: ``<16 x float>``.
        window: bytes that short offsets from one base reach; 0 if offsets are what they are.
        encoder: that writes the code; None if LLVM does.
        tiles: how many tiles a function runs for before the next one is fetched; where blocks have one function: 1.
    """

    taps: np.ndarray
    signs: np.ndarray
    blocks: list[Block]
    starts: np.ndarray
    kind: str
    window: int
    encoder: Encoder | None
    tiles: int

    def size(self, block: Block) -> int:
        """About how many bytes of code a function has."""
        return _size(self.taps[block.start : block.stop], block.outputs, self.encoder)

    @property
    def key(self) -> bytes:
        """Digest of all that the object depends on but the machine."""
        digest = hashlib.blake2b(f"{self.blocks} {self.kind} {self.window} {self.encoder}\n".encode())
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
    blocks, starts, encoder = list[Block](), [0], _encoder(kind, machine) if machine.encoded else None
    run = _run(step, machine)
    for i, (start, stop) in enumerate(pairwise(bounds.tolist())):
        many = min(machine.sums, outputs - i * machine.sums)
        own = taps[start:stop]
        for part, (first, end) in enumerate(parts(own, many) if step.binary else _parts(own, many, encoder, run)):
            continues = part > 0 and not step.binary
            blocks.append(Block(f"{name}_{len(blocks)}", start + first, start + end, many, continues))
        starts.append(len(blocks))
    window = 256 * LINE if machine.lanes == 16 and kind in (f"<{LINE} x i8>", f"<{LINE // 4} x float>") else 0
    many = min(TILES, max(1, SUMS // (machine.sums * machine.lanes * 4))) if run else TILES
    tiles = many if any(block.continues for block in blocks) else 1
    return Unrolled(taps, signs[places[order]], blocks, np.array(starts, np.int32), kind, window, encoder, tiles)


def _run(step: Product, machine: Machine) -> int:
    """Bytes of outputs that read about the same inputs as the next ones: those of a row; 0 if there is one tile."""
    if step.binary or step.positions <= machine.lanes:
        return 0
    fit = fits(step.out.shape[2], interleaved=step.out.buffer.interleaved, lanes=machine.lanes)
    return 4 * (step.out.shape[2] if fit else machine.lanes)


def _encoder(kind: str, machine: Machine) -> Encoder:
    real, lanes = "float" in kind, int(kind[1:].split()[0])
    return Encoder(lanes * (4 if real else 1), machine.lanes == 16, FLOATS if real else BYTES)


def _size(taps: np.ndarray, outputs: int, encoder: Encoder | None) -> int:
    """About how many bytes of code there are for ``taps``: six or four an addition, eight a load or store."""
    loads = np.count_nonzero(np.diff(taps[:, 0])) + len(taps[:1]) + outputs
    return (4 if encoder and not encoder.wide else 6) * len(taps) + 8 * int(loads)


def _touched(offsets: np.ndarray, run: int) -> int:
    """Bytes of the cache lines that a row of tiles, ``run`` bytes of output, reads at ``offsets``."""
    starts = np.unique(offsets)[:, None] + np.append(np.arange(0, run, LINE), run - 1)
    return LINE * len(np.unique(starts // LINE))


def _parts(taps: np.ndarray, outputs: int, encoder: Encoder | None, run: int) -> list[tuple[int, int]]:
    """Start and stop of parts of ``taps``, as long as each other, of about ``PART`` bytes of code at most.

    Where ``run`` bytes of outputs read the same inputs as the next ones, a part reads about ``CACHE`` bytes at most.
    """
    many = max(-(-_size(taps, outputs, encoder) // PART), -(-_touched(taps[:, 0], run) // CACHE) if run else 0)
    return list(pairwise(len(taps) * i // many for i in range(many + 1)))


def code(layer: Unrolled) -> list[tuple[str, bytes]]:
    """Name and machine code of each function of a layer that has an encoder."""
    assert layer.encoder is not None
    made = functions(layer.taps, layer.signs, layer.blocks, layer.encoder)
    return [(block.name, own) for block, own in zip(layer.blocks, made, strict=True)]


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
    if block.continues:
        for output in range(block.outputs):
            lines.append(f"%q{output}=getelementptr {kind},ptr %s,i64 {output}")
            lines.append(f"%l{output}=load {kind},ptr %q{output},align 1")
            sums[output] = f"%l{output}"
    bases = _Bases(lines, layer.window)
    last = -1
    for count, ((offset, output), sign) in enumerate(zip(taps, signs, strict=True)):
        if offset != last:
            lines.append(f"%g{count}=getelementptr i8,{bases.of(offset)}\n%x{count}=load {kind},ptr %g{count},align 1")
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


class _Bases:
    """Addresses from which offsets are short: multiples of a vector's bytes within ``window``, one a remainder.

    They are made by subtraction, because LLVM's fast path would add sums up again to one long offset.
    """

    def __init__(self, lines: list[str], window: int) -> None:
        self.lines, self.window, self.known, self.count = lines, window, dict[int, tuple[int, str]](), 0

    def of(self, offset: int) -> str:
        """The operands of an address ``offset`` bytes from the inputs."""
        if not self.window:
            return f"ptr %i,i64 {offset}"
        rest = offset % LINE
        start = (offset - rest) // self.window * self.window + self.window // 2 + rest
        if self.known.get(rest, (None, ""))[0] != start:
            if not self.count:
                self.lines.append("%b=ptrtoint ptr %i to i64")
            self.count += 1
            self.lines.append(f"%b{self.count}=sub i64 %b,{-start}\n%c{self.count}=inttoptr i64 %b{self.count} to ptr")
            self.known[rest] = start, f"%c{self.count}"
        return f"ptr {self.known[rest][1]},i64 {offset - start}"


def objects(layers: list[Unrolled], *, machine: Machine) -> list[bytes]:
    """The object of each layer, from the cache or made now; says so first where that takes longer than ``PATIENCE``."""
    found = [store.kept(layer.key, machine) for layer in layers]
    weights = sum(len(layer.signs) for layer, object_ in zip(layers, found, strict=True) if object_ is None)
    seconds = weights / RATE[machine.encoded]
    if seconds > PATIENCE:
        print(
            f"mpt.compile: unrolling {weights:,} weights takes about {seconds:.0f} s; the next time it is kept",
            file=sys.stderr,
            flush=True,
        )
    return [object_ or _made(layer, machine) for layer, object_ in zip(layers, found, strict=True)]


def _made(layer: Unrolled, machine: Machine) -> bytes:
    made = store.encoded(code(layer)) if machine.encoded else store.straight(text(layer), machine)
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


def kernel(f: Function, *, vector: int, sums: int, tiles: int) -> None:
    """The loop over blocks, their parts, and tiles, ``tiles`` at a time where blocks have several parts, else all.

    ``lists`` is the table of functions, ``starts`` the first function of each block.
    """
    kind = f"<{vector} x float>"
    results, zero = f.do(f"alloca [{tiles * sums} x {kind}], align 64"), f.do(f"alloca {kind}, align 64")
    f.store(kind, "zeroinitializer", zero)
    epilogue = Epilogue(f, vector)

    def inputs(tile: str) -> str:
        return f.at("float", "%in", f.index("%in_places", tile))

    def end(first: str, tile: str, own: str) -> None:
        to = epilogue.tiles([tile])
        with f.loop("0", smaller(f, f.i64("sub", "%outputs", first), sums)) as j:
            output = f.i64("add", first, j.index)
            epilogue.write([f.load(kind, f.at(kind, own, j.index))], output, to, epilogue.places(output, to))

    if tiles == 1:
        with f.loop("0", "%outputs", step=sums, partial=True) as first:
            function = entry(f, f.do(f"sdiv i64 {first.index}, {sums}"))
            with f.loop("0", "%tiles") as tile:
                f.say(f"call void {function}(ptr {inputs(tile.index)}, ptr {results}, ptr {zero})")
                end(first.index, tile.index, results)
        return
    with f.loop("0", "%tiles", step=tiles, partial=True) as group:
        many = smaller(f, f.i64("sub", "%tiles", group.index), tiles)
        with f.loop("0", "%outputs", step=sums, partial=True) as first:
            block = f.do(f"sdiv i64 {first.index}, {sums}")
            with f.loop(f.index("%starts", block), f.index("%starts", f.i64("add", block, 1))) as part:
                function = entry(f, part.index)
                with f.loop("0", many) as t:
                    own = f.at(kind, results, f.i64("mul", t.index, sums))
                    place = inputs(f.i64("add", group.index, t.index))
                    f.say(f"call void {function}(ptr {place}, ptr {own}, ptr {zero})")
            with f.loop("0", many) as t:
                end(first.index, f.i64("add", group.index, t.index), f.at(kind, results, f.i64("mul", t.index, sums)))


def smaller(f: Function, a: str, b: str | int) -> str:
    return f.do(f"select i1 {f.do(f'icmp slt i64 {a}, {b}')}, i64 {a}, i64 {b}")
