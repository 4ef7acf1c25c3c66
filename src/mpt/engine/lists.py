"""Products by lists: for each output, where its +1 weights and its -1 weights find their inputs.

    out[o] = relu(scale[o] (sum of input[plus[o]] - sum of input[minus[o]]) + shift[o] + residual[o])

An entry is one offset, the same for every output pixel (:mod:`mpt.engine.layout`). A tile is one vector of output
positions; the kernel takes up to eight tiles at once, so that an offset is read once for eight additions. With fewer
tiles it keeps several partial sums per tile, because an addition has a latency of four cycles.

Each addition loads its input, so the inputs have to lie in the innermost cache. Lists therefore come in chunks of input
channels: all outputs take the first chunk, then the next, and their sums wait where the outputs go. A chunk's offsets
count from its first one, in 16 bits.

Real weights lie next to the offsets: one offset then serves a block of up to four outputs, whose weights are zero where
an output does not keep it. That is a dense kernel where nothing is removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mpt.engine.code import Data, Function
from mpt.engine.graph import Conv
from mpt.engine.layout import GROUP, LINE, Product, fits
from mpt.engine.moves import address, splat

SUMS = 8  # sums at once of one kernel
CACHE = 36_000  # bytes of inputs that stay in a cache of 32 KiB, about
LEAST = 16  # weights of an output from which a chunk of its own pays
SHARED = 0.3  # fraction of weights kept from which several outputs share an offset
ARGUMENTS = ["scale", "shift", "lists", "starts", "weights", "in_places", "out_places", "residual_places"]
COUNTS = ["outputs", "tiles", "chunks", "out_channel", "residual_channel", "bits"]
PARAMETERS = ", ".join(
    ["ptr noalias %in", "ptr noalias %out", "ptr noalias %residual"]
    + [f"ptr noalias %{name}" for name in ARGUMENTS]
    + [f"i64 %{name}" for name in COUNTS]
    + ["float %floor"]
)


def cut(step: Product, vector: int) -> list[slice]:
    """Input channels of each chunk of the lists, so that what some tiles read stays in the innermost cache.

    A chunk has work of its own for each output, which pays from ``LEAST`` weights on.
    """
    conv, channels = step.conv, step.conv.weight.shape[1]
    if step.binary or step.single:
        return [slice(channels)]
    tiles = places(step, vector)[0]
    each = len(tiles) // (GROUP // step.out.buffer.interleaved)
    tiles = tiles[: min(SUMS, each) if step.alone else SUMS]
    read = LINE * len(np.unique((step.offsets[:channels].reshape(-1, 1) + tiles) * 4 // LINE))
    weights = np.count_nonzero(conv.weight) // conv.outputs
    many = max(1, min(-(-read // CACHE), weights // LEAST, channels))
    return [slice(channels * i // many, channels * (i + 1) // many) for i in range(many)]


def lists(step: Product, chunks: list[slice]) -> tuple[np.ndarray, np.ndarray, int]:
    """Offsets of all chunks, each by output; where the parts of each list start, [3 i] to [3 i + 3] of list i; a shift.

    The parts: plus and minus in turn, as long as there are both; more of plus; more of minus. In turn, because a sum
    of all plus would be large and lose digits before the minus take it back. Behind the starts comes the first offset
    of each chunk, from which its offsets count: in 16 bits, where these reach. All are to be shifted left by as many
    bits as they have zeros in common. Lists of bytes count from 0, one by one.
    """
    conv = step.conv
    assert conv.signs is not None
    all_ = step.offsets.astype(np.int32).reshape(conv.groups, -1)
    bits = 0 if step.binary else int(np.bitwise_or.reduce(all_.ravel(), initial=0))
    shift = max(0, (bits & -bits).bit_length() - 1)
    places = np.flatnonzero(conv.signs.ravel() != 0)  # of one dimension, and bool: much the fastest
    outputs, taps = np.divmod(places.astype(np.int32), np.int32(conv.signs[0].size))
    offsets = all_.ravel()[taps] if conv.groups == 1 else all_[outputs // (conv.outputs // conv.groups), taps]
    offsets, minus, number = offsets >> shift, conv.signs.ravel()[places] < 0, outputs
    bases = np.zeros(len(chunks), np.int32)
    if len(chunks) > 1:  # by chunk, then by output: a list each
        each = conv.signs[0, 0].size
        chunk = np.repeat(np.arange(len(chunks), dtype=np.uint8), [(c.stop - c.start) * each for c in chunks])[taps]
        order = np.argsort(chunk, kind="stable")
        number = (chunk.astype(np.int32) * conv.outputs + outputs)[order]
        offsets, minus, chunk = offsets[order], minus[order], chunk[order]
    if not step.binary and len(offsets):
        bounds = np.searchsorted(number, np.arange(len(chunks)) * conv.outputs)
        full = np.flatnonzero(np.diff(np.append(bounds, len(offsets))))
        bases[full] = np.minimum.reduceat(offsets, bounds[full])
        offsets = offsets - (bases[chunk] if len(chunks) > 1 else bases[0])
    kind = np.uint16 if offsets.max(initial=0) < 2**16 and not step.binary else np.int32
    starts, order = _parts(number, minus, len(chunks) * conv.outputs)
    made = np.empty(len(offsets), kind)
    made[order] = offsets
    return made, np.concatenate([starts, bases]).astype(np.int32), shift


def _parts(number: np.ndarray, minus: np.ndarray, many: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the parts of ``many`` lists start, (3 many + 1,), and the place of each weight, of a list ``number``."""
    counts = np.bincount(2 * number + minus, minlength=2 * many).reshape(many, 2)
    pairs = counts.min(axis=1)
    sizes = np.stack([2 * pairs, counts[:, 0] - pairs, counts[:, 1] - pairs], axis=1)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    before = np.cumsum(minus, dtype=np.int32) - minus  # of the minus, from the first list on
    first = np.cumsum(counts, axis=0, dtype=np.int32) - counts
    rank = np.where(minus, before - first[:, 1][number], np.arange(len(minus)) - before - first[:, 0][number])
    own = pairs[number]
    return starts, starts[::3][number] + np.where(rank < own, 2 * rank + minus, rank + own)


def together(conv: Conv) -> int:
    """Outputs that share an offset where weights are real: several, if most of their inputs are the same."""
    if np.count_nonzero(conv.weight) < SHARED * conv.weight.size:
        return 1
    return next(n for n in (4, 2, 1) if conv.outputs // conv.groups % n == 0)


def blocks(step: Product) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a step with real weights: offsets, starts and weights of blocks of outputs."""
    conv = step.conv
    weight = conv.weight.reshape(conv.outputs // together(conv), together(conv), -1)  # (blocks, outputs, inputs)
    block, entry = np.nonzero(weight.any(axis=1))
    inputs = step.offsets.reshape(conv.groups, -1)
    offsets = inputs[block // (len(weight) // conv.groups), entry]
    starts = np.concatenate([[0], np.cumsum(np.bincount(block, minlength=len(weight)))]).astype(np.int32)
    return offsets.astype(np.int32), starts, weight[block, :, entry]


def places(step: Product, vector: int) -> list[np.ndarray]:
    """Where the tiles of a group of images begin, in input, output and residual; int32 (tiles,) each.

    The last tile of a row, or of an image whose rows vectors do not fit, ends with it: it shares entries with the one
    before where tiles do not fit evenly.
    """
    (_, height, width), b = step.out.shape, step.out.buffer.interleaved
    views = [(step.source, step.row), (step.out.buffer, step.out.row)]
    views += [(step.residual.buffer, step.residual.row)] if step.residual else []
    by_rows = fits(width, interleaved=b, lanes=vector)
    assert by_rows or all(row == width for _, row in views)
    rows, n = (height, width) if by_rows else (1, step.positions)
    starts = np.minimum(np.arange(-(-n // vector)) * vector, n - vector)
    groups = np.arange(GROUP // b)[:, None, None]
    found = [groups * buffer.stride + np.arange(rows)[:, None] * row + starts for buffer, row in views]
    return [tiles.ravel().astype(np.int32) for tiles in (*found, np.zeros_like(found[0]))[:3]]


def call(
    f: Function,
    kernel: str,
    step: Product,
    data: Data,
    numbers: dict[str, Any],
    *,
    vector: int,
    outputs: int,
) -> None:
    """The call of a product kernel for the images of a step; ``numbers`` are arrays, or where they are in ``data``."""
    b = step.out.buffer.interleaved
    first = f.do(f"and i64 %first, {-b}")
    last = f.do(f"lshr i64 {f.do(f'add i64 %last, {b - 1}')}, {b.bit_length() - 1}")
    groups = f.do(f"sub i64 {last}, {f.do(f'lshr i64 %first, {b.bit_length() - 1}')}")
    found = places(step, vector)
    tiles = f.i64("mul", groups, len(found[0]) // (GROUP // b))
    numbers = {**numbers, **dict(zip(ARGUMENTS[-3:], found, strict=True))}
    pointers = [address(f, step.source, step.start, first), address(f, step.out.buffer, step.out.start, first)]
    pointers.append(address(f, step.residual.buffer, step.residual.start, first) if step.residual else "null")
    starts = {name: number if isinstance(number, int) else data.put(number) for name, number in numbers.items()}
    pointers += [f.at("i8", "%data", starts[name]) if name in starts else "null" for name in ARGUMENTS]
    counts = [outputs, tiles, numbers.pop("chunks", 1), step.out.channel, step.residual.channel if step.residual else 0]
    counts.append(numbers.pop("bits", 0) + (4 * step.unit).bit_length() - 1)
    arguments = ", ".join([f"ptr {pointer}" for pointer in pointers] + [f"i64 {count}" for count in counts])
    arguments += f", float {'0.0' if step.conv.relu else '0xFFF0000000000000'}"  # or minus infinity: no ReLU
    f.say(f"call void @{kernel}({arguments})")


def sizes(step: Product, vector: int) -> set[int]:
    """How many tiles at once the kernel of a step is for, so that together they make all numbers of tiles that occur.

    They are powers of two, up to ``SUMS``. A step of one image at a time has one number of tiles. In a group of images
    the number may be any multiple of one image's, and what is left over is rarely worth more than its smallest size.
    """
    most = SUMS if step.conv.signs is not None else SUMS // 2
    groups = GROUP // step.out.buffer.interleaved
    each = len(places(step, vector)[0]) // groups
    found, left = set[int](), each if step.alone else each * groups
    for size in (8, 4, 2, 1):
        if size <= min(most, left):
            found.add(size)
            left %= size
    return found if step.alone else found | {min(most, each & -each)}


def kernel(f: Function, *, vector: int, sizes: Iterable[int], together: int = 0, short: bool = False) -> None:
    """The kernel for vectors of ``vector`` float32: of signs where ``together`` is 0, else of real weights.

    ``sizes`` are the numbers of tiles at once. With real weights ``together`` outputs share an offset. Lists are
    ``short`` where their entries have 16 bits.
    """
    tile, epilogue = "0", Epilogue(f, vector)
    for tiles in sorted(sizes, reverse=True):
        with f.loop(tile, "%tiles", step=tiles) as loop:
            numbers = [f.i64("add", loop.index, t) for t in range(tiles)]
            inputs = [f.at("float", "%in", f.index("%in_places", number)) for number in numbers]
            outputs = epilogue.tiles(numbers)
            if together:
                with f.loop(0, "%outputs") as o:
                    sums = _weighted(f, vector, inputs, o.index, together)
                    for m, values in enumerate(sums):
                        output = f.i64("add", f.i64("mul", o.index, together), m)
                        epilogue.write(values, output, outputs, epilogue.places(output, outputs))
            else:
                _chunks(f, vector, inputs, outputs, epilogue, short)
        tile = loop.index


def _chunks(
    f: Function, lanes: int, inputs: list[str], outputs: list[tuple[str, str]], epilogue: Epilogue, short: bool
) -> None:
    """All outputs of some tiles: sums of the first chunk, then of the next, kept where outputs go."""
    kind, bases = f"<{lanes} x float>", f.i64("mul", f.i64("mul", "%outputs", "%chunks"), 3)
    with f.loop(0, "%chunks") as chunk:
        is_later = f.do(f"zext i1 {f.do(f'icmp ne i64 {chunk.index}, 0')} to i64")
        is_last = f.do(f"icmp eq i64 {f.i64('add', chunk.index, 1)}, %chunks")
        goes_on = f.do(f"xor i1 {is_last}, true")
        start = f.index("%starts", f.i64("add", f.i64("add", bases, 1), chunk.index))
        start = f.i64("shl", start, "%bits")
        own = [f.at("i8", base, start) for base in inputs]
        before = f.i64("mul", chunk.index, "%outputs")
        with f.loop(0, "%outputs") as o:
            places = epilogue.places(o.index, outputs)
            with f.loop(0, is_later, carried=[(kind, "zeroinitializer")] * len(places)) as once:
                once.next = [f.load(kind, place) for place in places]
            sums = _signed(f, lanes, own, f.i64("add", before, o.index), once.values, short)
            with f.when(is_last):
                epilogue.write(sums, o.index, outputs, places)
            with f.when(goes_on):
                for place, value in zip(places, sums, strict=True):
                    f.store(kind, value, place)


def _signed(f: Function, lanes: int, inputs: list[str], number: str, sums: list[str], short: bool) -> list[str]:
    """``sums`` and those of list ``number``, for each input tile; several pairs at a time where tiles are few."""
    kind, first, unrolled = f"<{lanes} x float>", f.i64("mul", number, 3), min(4, SUMS // len(inputs))
    start, pairs, plus, stop = (f.index("%starts", f.i64("add", first, i)) for i in range(4))
    sums = [*sums, *["zeroinitializer"] * (len(inputs) * (unrolled - 1))]

    def taps(entry: str) -> list[str]:
        offset = f.i64("shl", f.index("%lists", entry, short=short), "%bits")
        return [f.load(kind, f.at("i8", base, offset)) for base in inputs]

    for many in sorted({unrolled, 1}, reverse=True):
        with f.loop(
            start, pairs, step=2 * many, carried=[(kind, value) for value in sums[: many * len(inputs)]]
        ) as loop:
            for u in range(many):
                both = zip(*(taps(f.i64("add", loop.index, 2 * u + turn)) for turn in (0, 1)), strict=True)
                for value, (a, b) in zip(loop.values[u * len(inputs) :], both, strict=False):
                    loop.next.append(f.do(f"fadd {kind} {value}, {f.do(f'fsub {kind} {a}, {b}')}"))
        start, sums = loop.index, [*loop.values, *sums[many * len(inputs) :]]
    while len(sums) > len(inputs):
        half = len(sums) // 2
        sums = [f.do(f"fadd {kind} {a}, {b}") for a, b in zip(sums[:half], sums[half:], strict=True)]
    more = f.do(f"icmp slt i64 {pairs}, {plus}")  # what has no partner is all plus or all minus
    sign = splat(f, "float", lanes, f.do(f"select i1 {more}, float 1.0, float -1.0"))
    with f.loop(pairs, stop, carried=[(kind, value) for value in sums]) as loop:
        loop.next = [fused(f, lanes, x, sign, v) for v, x in zip(loop.values, taps(loop.index), strict=True)]
    return loop.values


def _weighted(f: Function, lanes: int, inputs: list[str], block: str, together: int) -> list[list[str]]:
    """Sums of each output of ``block`` for each input tile."""
    kind = f"<{lanes} x float>"
    start, stop = (f.index("%starts", f.i64("add", block, i)) for i in range(2))
    with f.loop(start, stop, carried=[(kind, "zeroinitializer")] * (together * len(inputs))) as loop:
        offset, first = f.i64("shl", f.index("%lists", loop.index), "%bits"), f.i64("mul", loop.index, together)
        values = [f.load(kind, f.at("i8", base, offset)) for base in inputs]
        for m in range(together):
            weight = splat(f, "float", lanes, f.load("float", f.at("float", "%weights", f.i64("add", first, m))))
            for t, value in enumerate(values):
                last = loop.values[m * len(inputs) + t]
                loop.next.append(fused(f, lanes, value, weight, last))
    return [loop.values[m * len(inputs) : (m + 1) * len(inputs)] for m in range(together)]


class Epilogue:
    """Scale, shift, residual and ReLU of vectors of sums, and their way to memory.

    Made at the start of a kernel: what is the same for all outputs is written there, once.
    """

    def __init__(self, f: Function, lanes: int) -> None:
        self.f, self.lanes, self.kind = f, lanes, f"<{lanes} x float>"
        self.floor = splat(f, "float", lanes, "%floor")
        self.has_residual = f.do(f"zext i1 {f.do('icmp ne ptr %residual, null')} to i64")

    def tiles(self, numbers: Sequence[str]) -> list[tuple[str, str]]:
        """Where the outputs of some tiles go, and the residuals come from."""
        f = self.f
        arrays = (("%out", "%out_places"), ("%residual", "%residual_places"))
        starts = [[f.at("float", base, f.index(places, number)) for number in numbers] for base, places in arrays]
        return list(zip(*starts, strict=True))

    def places(self, output: str, tiles: Sequence[tuple[str, str]]) -> list[str]:
        """Where ``output`` goes, of each tile."""
        place = self.f.i64("mul", output, "%out_channel")
        return [self.f.at("float", out, place) for out, _ in tiles]

    def write(self, sums: Sequence[str], output: str, tiles: Sequence[tuple[str, str]], places: Sequence[str]) -> None:
        """One vector of sums of each tile, all of one ``output``, which goes to ``places``."""
        f, lanes, kind = self.f, self.lanes, self.kind
        scale, shift = (splat(f, "float", lanes, f.load("float", f.at("float", x, output))) for x in ("%scale", "%shift"))
        sums = [fused(f, lanes, value, scale, shift) for value in sums]
        with f.loop(0, self.has_residual, carried=[(kind, value) for value in sums]) as once:
            place = f.i64("mul", output, "%residual_channel")
            for value, (_, residual) in zip(once.values, tiles, strict=True):
                once.next.append(f.do(f"fadd {kind} {value}, {f.load(kind, f.at('float', residual, place))}"))
        for value, out in zip(once.values, places, strict=True):
            above = f.do(f"fcmp ogt {kind} {value}, {self.floor}")
            value = f.do(f"select <{lanes} x i1> {above}, {kind} {value}, {kind} {self.floor}")
            f.store(kind, value, out)


def fused(f: Function, lanes: int, a: str, b: str, c: str) -> str:
    """``a b + c``, rounded once where the processor can."""
    kind = f"<{lanes} x float>"
    return f.do(f"call {kind} @llvm.fmuladd.v{lanes}f32({kind} {a}, {kind} {b}, {kind} {c})")
