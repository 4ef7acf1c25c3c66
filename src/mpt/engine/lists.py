"""Products by lists: for each output, where its +1 weights and its -1 weights find their inputs.

    out[o] = relu(scale[o] (sum of input[plus[o]] - sum of input[minus[o]]) + shift[o] + residual[o])

An entry is one offset, the same for every output pixel (:mod:`mpt.engine.layout`); :mod:`mpt.engine.offsets` makes the
lists. A tile is one vector of output positions; the kernel takes up to eight tiles at once, so that an offset is read
once for eight additions. With fewer tiles it keeps several partial sums per tile, because an addition has a latency of
four cycles. One kernel serves all layers: what differs between them are its arguments.

Each addition loads its input, so the inputs have to lie in the innermost cache. Lists therefore come in chunks of input
channels: all outputs take the first chunk, then the next, and their sums wait where the outputs go. A chunk's offsets
count from its first one, in 16 bits.

Real weights lie next to the offsets: one offset then serves a block of up to four outputs, whose weights are zero where
an output does not keep it. That is a dense kernel where nothing is removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mpt.engine.code import Data, Function
from mpt.engine.layout import GROUP, Product
from mpt.engine.moves import address, splat
from mpt.engine.offsets import SUMS, places

ARGUMENTS = ["scale", "shift", "lists", "starts", "weights", "in_places", "out_places", "residual_places"]
COUNTS = ["outputs", "tiles", "chunks", "out_channel", "residual_channel", "bits"]
PARAMETERS = ", ".join(
    ["ptr noalias %in", "ptr noalias %out", "ptr noalias %residual", "ptr noalias %sums"]
    + [f"ptr noalias %{name}" for name in ARGUMENTS]
    + [f"i64 %{name}" for name in COUNTS]
    + ["float %floor"]
)


def call(
    f: Function,
    kernel: str,
    step: Product,
    data: Data,
    numbers: dict[str, Any],
    *,
    vector: int,
    outputs: int,
    sums: int,
) -> None:
    """The call of a product kernel for the images of a step.

    ``numbers`` are arrays, or where they are in ``data``; ``sums`` is where in ``%work`` the kernel may keep sums.
    """
    b = step.out.buffer.interleaved
    first = f.do(f"and i64 %first, {-b}")
    last = f.do(f"lshr i64 {f.do(f'add i64 %last, {b - 1}')}, {b.bit_length() - 1}")
    groups = f.do(f"sub i64 {last}, {f.do(f'lshr i64 %first, {b.bit_length() - 1}')}")
    found = places(step, vector)
    tiles = f.i64("mul", groups, len(found[0]) // (GROUP // b))
    numbers = {**numbers, **dict(zip(ARGUMENTS[-3:], found, strict=True))}
    pointers = [address(f, step.source, step.start, first), address(f, step.out.buffer, step.out.start, first)]
    pointers.append(address(f, step.residual.buffer, step.residual.start, first) if step.residual else "null")
    pointers.append(f.at("i8", "%work", sums))
    starts = {name: number if isinstance(number, int) else data.put(number) for name, number in numbers.items()}
    pointers += [f.at("i8", "%data", starts[name]) if name in starts else "null" for name in ARGUMENTS]
    counts = [outputs, tiles, numbers.pop("chunks", 1), step.out.channel, step.residual.channel if step.residual else 0]
    counts.append(numbers.pop("bits", 0) + (4 * step.unit).bit_length() - 1)
    arguments = ", ".join([f"ptr {pointer}" for pointer in pointers] + [f"i64 {count}" for count in counts])
    arguments += f", float {'0.0' if step.conv.relu else '0xFFF0000000000000'}"  # or minus infinity: no ReLU
    f.say(f"call void @{kernel}({arguments})")


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
        scale, shift = (
            splat(f, "float", lanes, f.load("float", f.at("float", x, output))) for x in ("%scale", "%shift")
        )
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
