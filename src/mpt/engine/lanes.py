"""Products of MPT-1/1: sums of -1 and +1, four images' worth of float32 in one vector of bytes.

A convolution on signs adds and subtracts -1, 0 (outside the image) and +1, so its sums are integers. A vector of bytes
holds 64 of them with AVX-512. A byte holds -128 to 127: after at most 127 weights, the bytes are added to sums of 16
bits. At the end, either

    out = +1 where sum >= threshold[o], else -1; the other way round where flip[o] is -1       bytes, exact
    out = relu(scale[o] sum + shift[o] + residual)                                             float32

The threshold stands for batch-norm and sign together (:mod:`mpt.engine.fuse`). By lists as in :mod:`mpt.engine.lists`,
or unrolled as in :mod:`mpt.engine.unrolled`, where a layer's code comes in parts of at most 127 weights an output.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpt.engine import lists
from mpt.engine.code import Function
from mpt.engine.layout import Product
from mpt.engine.moves import splat

MOST = 127  # weights whose sum one byte holds
LIST_TILES = 4  # tiles at once by lists: four sums of bytes, and eight vectors of 16-bit sums


def numbers(step: Product) -> dict[str, np.ndarray]:
    """Per output, the numbers that turn a sum into an output: a threshold for the shift, a flip for the scale."""
    conv = step.conv
    if conv.threshold is None:
        return {"scale": conv.scale.astype(np.float32), "shift": conv.shift.astype(np.float32)}
    assert conv.flip is not None
    return {"scale": np.where(conv.flip, -1, 1).astype(np.int32), "shift": conv.threshold.astype(np.int32)}


def kernel(f: Function, *, vector: int, signs: bool) -> None:
    """The kernel by lists, for vectors of ``vector`` bytes."""
    tile, epilogue = "0", _Epilogue(f, vector, signs)
    for tiles in (LIST_TILES, 1):
        with f.loop(tile, "%tiles", step=tiles) as loop:
            numbers = [f.i64("add", loop.index, t) for t in range(tiles)]
            inputs = [f.at("i8", "%in", f.index("%in_places", number)) for number in numbers]
            outputs = epilogue.tiles(numbers)
            with f.loop(0, "%outputs") as o:
                epilogue.write(_sums(f, vector, inputs, o.index), o.index, outputs)
        tile = loop.index


def _sums(f: Function, vector: int, inputs: list[str], output: str) -> list[str]:
    """16-bit sums of one output for each input tile, from its list of pairs, more plus and more minus."""
    kind, wide = f"<{vector} x i8>", f"<{vector} x i16>"
    first = f.i64("mul", output, 3)
    bounds = [f.index("%starts", f.i64("add", first, i)) for i in range(4)]
    sums = ["zeroinitializer"] * len(inputs)

    def taps(entry: str) -> list[str]:
        offset = f.index("%lists", entry)
        return [f.load(kind, f.at("i8", base, offset)) for base in inputs]

    parts = zip(bounds, bounds[1:], ("pair", "add", "sub"), strict=False)
    for start, stop, operation in parts:
        step = 2 if operation == "pair" else 1
        most = MOST // step * step
        with f.loop(start, stop, step=most, partial=True, carried=[(wide, value) for value in sums]) as part:
            end = f.i64("add", part.index, most)
            end = f.do(f"select i1 {f.do(f'icmp slt i64 {end}, {stop}')}, i64 {end}, i64 {stop}")
            with f.loop(part.index, end, step=step, carried=[(kind, "zeroinitializer")] * len(inputs)) as loop:
                values = taps(loop.index)
                if operation == "pair":
                    others = taps(f.i64("add", loop.index, 1))
                    values = [f.do(f"sub {kind} {a}, {b}") for a, b in zip(values, others, strict=True)]
                known = "sub" if operation == "sub" else "add"
                loop.next = [f.do(f"{known} {kind} {v}, {x}") for v, x in zip(loop.values, values, strict=True)]
            for total, narrow in zip(part.values, loop.values, strict=True):
                part.next.append(f.do(f"add {wide} {total}, {f.do(f'sext {kind} {narrow} to {wide}')}"))
        sums = part.values
    return sums


class _Epilogue:
    """Vectors of 16-bit sums, compared where outputs are ``signs`` or scaled, and their way to memory."""

    def __init__(self, f: Function, vector: int, signs: bool) -> None:
        self.f, self.vector = f, vector
        self.real = None if signs else lists.Epilogue(f, vector)

    def tiles(self, numbers: Sequence[str]) -> list[tuple[str, str]]:
        """As of :meth:`mpt.engine.lists.Epilogue.tiles`; signs have no residuals."""
        f = self.f
        if self.real:
            return self.real.tiles(numbers)
        return [(f.at("i8", "%out", f.index("%out_places", number)), "") for number in numbers]

    def write(self, sums: Sequence[str], output: str, tiles: Sequence[tuple[str, str]]) -> None:
        """One vector of sums of each tile, all of one ``output``."""
        f, vector = self.f, self.vector
        if self.real:
            values = [f.do(f"sitofp <{vector} x i16> {value} to <{vector} x float>") for value in sums]
            self.real.write(values, output, tiles, self.real.places(output, tiles))
            return
        limit = f.do(f"trunc i32 {f.load('i32', f.at('i32', '%shift', output))} to i16")
        flip = f.do(f"trunc i32 {f.load('i32', f.at('i32', '%scale', output))} to i8")
        yes, no = splat(f, "i8", vector, flip), splat(f, "i8", vector, f.do(f"sub i8 0, {flip}"))
        least, place = splat(f, "i16", vector, limit), f.i64("mul", output, "%out_channel")
        for value, (out, _) in zip(sums, tiles, strict=True):
            test = f.do(f"icmp sge <{vector} x i16> {value}, {least}")
            value = f.do(f"select <{vector} x i1> {test}, <{vector} x i8> {yes}, <{vector} x i8> {no}")
            f.store(f"<{vector} x i8>", value, f.at("i8", out, place))


def parts(taps: np.ndarray, outputs: int) -> list[tuple[int, int]]:
    """Start and stop of runs of ``taps``, (kept, 2) of offset and output, none with more than 127 weights an output."""
    runs, start, counts = list[tuple[int, int]](), 0, [0] * outputs
    for i, output in enumerate(taps[:, 1].tolist()):
        if counts[output] == MOST:
            runs.append((start, i))
            counts, start = [0] * outputs, i
        counts[output] += 1
    return [*runs, (start, len(taps))]


def unrolled_kernel(f: Function, *, vector: int, sums: int, signs: bool) -> None:
    """The loop over blocks and tiles of unrolled code; ``starts`` says how many parts each block has, summed up."""
    kind, wide = f"<{vector} x i8>", f"<{vector} x i16>"
    narrow, zero = f.do(f"alloca [{sums} x {kind}], align 64"), f.do(f"alloca {kind}, align 64")
    totals = f.do(f"alloca [{sums} x {wide}], align 64")
    f.store(kind, "zeroinitializer", zero)
    epilogue = _Epilogue(f, vector, signs)
    with f.loop("0", "%outputs", step=sums, partial=True) as first:
        index = f.do(f"sdiv i64 {first.index}, {sums}")
        start, stop = f.index("%starts", index), f.index("%starts", f.i64("add", index, 1))
        left = f.i64("sub", "%outputs", first.index)
        many = f.do(f"select i1 {f.do(f'icmp slt i64 {left}, {sums}')}, i64 {left}, i64 {sums}")
        with f.loop("0", "%tiles") as tile:
            inputs = f.at("i8", "%in", f.index("%in_places", tile.index))
            with f.loop("0", many) as j:
                f.store(wide, "zeroinitializer", f.at(wide, totals, j.index))
            with f.loop(start, stop) as part:
                block = f.load("ptr", f.at("i8", "%lists", f.i64("mul", part.index, 16)))
                f.say(f"call void {block}(ptr {inputs}, ptr {narrow}, ptr {zero})")
                with f.loop("0", many) as j:
                    total = f.at(wide, totals, j.index)
                    value = f.do(f"sext {kind} {f.load(kind, f.at(kind, narrow, j.index))} to {wide}")
                    f.store(wide, f.do(f"add {wide} {f.load(wide, total)}, {value}"), total)
            to = epilogue.tiles([tile.index])
            with f.loop("0", many) as j:
                total = f.load(wide, f.at(wide, totals, j.index))
                epilogue.write([total], f.i64("add", first.index, j.index), to)
