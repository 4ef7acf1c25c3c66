"""Products as straight-line code: the mask and signs of a layer written out, without a list.

A block is the code of as many outputs as the registers hold sums (30 or 31 vectors of 16 with AVX-512). It walks
through its inputs in the order of memory: each vector of inputs is loaded once, then added to the sums of the outputs
that keep it with +1, and subtracted from those that keep it with -1::

    x = load input + 1088          the offset is part of the instruction
    s3 = s3 + x                    output 3 keeps this weight, with +1
    s17 = s17 - x

The blocks of a layer are cut into parts at the same inputs, each a function that goes on with the sums of the one
before, so that what some tiles read in a part stays in the processor's innermost cache. All blocks take the first part
for these tiles, then the next one. The code of a function stays in a cache of its own while the tiles take turns.

With AVX-512, an offset takes one byte instead of four where it is a multiple of 64 within 8 KiB of its base. A function
therefore has several bases, one for each remainder of 64 that occurs, and moves them along.

On x86-64 with AVX2 or AVX-512, :mod:`mpt.engine.encode` writes the instructions itself. For any other processor and for
object files, the IR is text, and LLVM makes machine code of it at its lowest level, one instruction for one: 100,000 to
200,000 kept weights a second. Its optimiser takes fifty times as long for code that is no faster. Only loads,
additions, subtractions and stores stand here, since one instruction that the fast path does not know makes its whole
block slow: all else is in :mod:`mpt.engine.unrolled_kernel`.

Objects are kept in the user's cache directory, one a layer, by a digest of all offsets and signs.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mpt.engine import objects as store
from mpt.engine.code import Machine
from mpt.engine.encode import BYTES, FLOATS, FUSED, Block, Encoder, functions
from mpt.engine.lanes import parts
from mpt.engine.layout import GROUP, LINE, Product
from mpt.engine.offsets import places as places_of

RATE = {False: 100_000, True: 1_000_000}  # kept weights a second of LLVM, and encoded; on one core of 2023
PATIENCE = 8  # seconds of building that need no announcement
PART = 24_576  # bytes of code that stay in a cache of 32 KiB next to the kernel's own
CACHE = 30_000  # bytes of inputs that stay in a cache of 32 KiB
LEAST = 20  # weights of an output from which a part of its own pays
TILES = 4  # tiles that take turns
BAND = 528  # outputs, about, whose sums wait while other blocks take a part: 132 KiB for four tiles


@dataclass(frozen=True)
class Unrolled:
    """The straight-line code of one layer.

    Attributes:
        taps: int32 (kept, 2): offset of the input in bytes, and output within the block; by block, then by offset.
        signs: int8 (kept,).
        blocks: its functions, in the order in which they run: by bands of ``band`` blocks of ``machine.sums`` outputs,
            then by parts of the inputs, then by blocks.
        starts: int32: the first function of each band, and the number of functions.
        kind: of a vector in LLVM: ``<16 x float>``.
        window: bytes that short offsets from one base reach; 0 if offsets are what they are.
        encoder: that writes the code; None if LLVM does.
        tiles: how many tiles take turns; 1 where blocks have one function, which all tiles take first.
        band: how many blocks take a part, one after another, before the next part.
    """

    taps: np.ndarray
    signs: np.ndarray
    blocks: list[Block]
    starts: np.ndarray
    kind: str
    window: int
    encoder: Encoder | None
    tiles: int
    band: int

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
    conv, last = step.conv, -(-step.conv.outputs // machine.sums)
    assert conv.signs is not None
    places = np.flatnonzero(conv.signs.ravel())  # of one dimension: much the fastest
    o, tap = np.divmod(places, conv.signs[0].size)
    first = o // (conv.outputs // conv.groups) * conv.signs[0].size
    offsets = (step.offsets.ravel() * step.source.size)[first + tap]
    order = np.argsort(o // machine.sums * (int(offsets.max(initial=0)) + 1) + offsets, kind="stable")
    block, taps = o[order] // machine.sums, np.stack([offsets, o % machine.sums], axis=1).astype(np.int32)[order]
    encoder = _encoder(kind, machine) if machine.encoded else None
    band = 1 if step.binary or conv.groups > 1 else max(1, BAND // machine.sums)
    function, starts, heads = np.empty(len(taps), np.int64), [0], list[tuple[int, bool]]()
    for start in range(0, last, band):
        own = range(start, min(start + band, last))
        many = [min(machine.sums, conv.outputs - i * machine.sums) for i in own]
        bounds = np.searchsorted(block, [*own, own.stop])
        here = slice(bounds[0], bounds[-1])
        if step.binary:
            part = np.repeat(*np.array([(i, b - a) for i, (a, b) in enumerate(parts(taps[here], many[0]))]).T)
        else:
            part = _parts(taps, bounds, many, encoder, _reads(step, kind))
        function[here] = starts[-1] + part * len(own) + block[here] - start
        heads += [(outputs, i > 0 and not step.binary) for i in range(int(part.max(initial=0)) + 1) for outputs in many]
        starts.append(len(heads))
    again = np.argsort(function, kind="stable")
    ends = [0, *np.cumsum(np.bincount(function, minlength=len(heads))).tolist()]
    blocks = [Block(f"{name}_{i}", ends[i], ends[i + 1], *head) for i, head in enumerate(heads)]
    tiles = TILES if any(block.continues for block in blocks) else 1
    window = 256 * LINE if machine.lanes == 16 and kind in (f"<{LINE} x i8>", f"<{LINE // 4} x float>") else 0
    signs = conv.signs.ravel()[places[order]][again]
    return Unrolled(taps[again], signs, blocks, np.array(starts, np.int32), kind, window, encoder, tiles, band)


def _reads(step: Product, kind: str) -> np.ndarray:
    """What a weight of offset 0 reads in the tiles that take turns: first and last byte of each one's vector."""
    vector = int(kind[1:].split()[0])
    tiles = places_of(step, vector)[0]
    each = len(tiles) // (GROUP // step.out.buffer.interleaved)
    tiles = tiles[: min(TILES, each) if step.alone else TILES]
    return 4 * np.stack([tiles, tiles + vector]) - [[0], [1]]


def _encoder(kind: str, machine: Machine) -> Encoder:
    real, lanes = "float" in kind, int(kind[1:].split()[0])
    operations = (FUSED if machine.fused else FLOATS) if real else BYTES
    return Encoder(lanes * (4 if real else 1), machine.lanes == 16, operations, machine.space)


def _size(taps: np.ndarray, outputs: int, encoder: Encoder | None) -> int:
    """About how many bytes of code there are for ``taps``: six or four an addition, eight a load or store."""
    loads = np.count_nonzero(np.diff(taps[:, 0])) + len(taps[:1]) + outputs
    return (4 if encoder and not encoder.wide else 6) * len(taps) + 8 * int(loads)


def _parts(
    taps: np.ndarray, bounds: np.ndarray, outputs: list[int], encoder: Encoder | None, reads: np.ndarray
) -> np.ndarray:
    """The part of each tap of a band, whose blocks' taps lie between ``bounds``.

    There are as many parts as it takes so that, about, none has more than ``PART`` bytes of code in a block, and
    the tiles that take turns read no more than ``CACHE`` bytes in one.
    """
    own = taps[bounds[0] : bounds[-1], 0]
    offsets = np.unique(own)
    read = LINE * len(np.unique((offsets[:, None] + reads.ravel()) // LINE))
    code = max(_size(taps[a:b], many, encoder) for (a, b), many in zip(pairwise(bounds), outputs, strict=True))
    many = max(1, -(-code // PART), min(-(-read // CACHE), len(own) // sum(outputs) // LEAST))
    cuts = offsets[[len(offsets) * i // many for i in range(1, many)]] if len(offsets) else offsets
    return np.searchsorted(cuts, own, side="right")


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
