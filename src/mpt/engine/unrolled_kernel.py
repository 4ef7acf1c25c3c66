"""The kernel around unrolled code: which function runs for which tiles, and what becomes of the sums.

See :mod:`mpt.engine.unrolled` for the functions. Scale, shift, residual and ReLU are here, behind a table of the
functions' addresses.
"""

from __future__ import annotations

from mpt.engine.code import Function
from mpt.engine.layout import LINE
from mpt.engine.lists import Epilogue
from mpt.engine.moves import splat


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


def kept(*, sums: int, tiles: int, band: int) -> int:
    """Vectors of sums that a kernel keeps at once; too many for the stack of a small thread."""
    return tiles * (band * sums if tiles > 1 else sums)


def kernel(f: Function, *, vector: int, sums: int, tiles: int, band: int, fused: bool) -> None:
    """The loop over blocks, their parts, and tiles: all of these where blocks have one part, else ``tiles`` in turn.

    ``lists`` is the table of functions, ``starts`` the first function of each band of ``band`` blocks. In ``sums`` is
    room for :func:`kept` vectors. Functions are passed a vector of ones if they are ``fused``, else of zeros.
    """
    kind, wide = f"<{vector} x float>", kept(sums=sums, tiles=tiles, band=band) // tiles
    results, numbers = "%sums", f.do(f"alloca {kind}, align 64")
    f.store(kind, splat(f, "float", vector, "1.0" if fused else "0.0"), numbers)
    epilogue = Epilogue(f, vector)

    def call(function: str, tile: str, own: str) -> None:
        place = f.at("float", "%in", f.index("%in_places", tile))
        f.say(f"call void {function}(ptr {place}, ptr {own}, ptr {numbers})")

    def end(first: str, tiles: list[str], own: list[str]) -> None:
        to = epilogue.tiles(tiles)
        with f.loop("0", smaller(f, f.i64("sub", "%outputs", first), wide)) as j:
            output = f.i64("add", first, j.index)
            values = [f.load(kind, f.at(kind, place, j.index)) for place in own]
            epilogue.write(values, output, to, epilogue.places(output, to))

    def sums_of(tile: str | int) -> str:
        return f.at(kind, results, f.i64("mul", tile, wide))

    if tiles == 1:
        with f.loop("0", "%outputs", step=sums, partial=True) as first:
            function = entry(f, f.do(f"sdiv i64 {first.index}, {sums}"))
            with f.loop("0", "%tiles") as tile:
                call(function, tile.index, results)
                end(first.index, [tile.index], [results])
        return
    with f.loop("0", "%tiles", step=tiles, partial=True) as group:
        many = smaller(f, f.i64("sub", "%tiles", group.index), tiles)
        turns = [f.i64("add", group.index, t) for t in range(tiles)]
        is_whole = f.do(f"icmp eq i64 {many}, {tiles}")
        with f.loop("0", "%outputs", step=wide, partial=True) as first:
            left = f.i64("add", smaller(f, f.i64("sub", "%outputs", first.index), wide), sums - 1)
            blocks, index = f.do(f"sdiv i64 {left}, {sums}"), f.do(f"sdiv i64 {first.index}, {wide}")
            start, stop = f.index("%starts", index), f.index("%starts", f.i64("add", index, 1))
            parts = f.do(f"sdiv i64 {f.i64('sub', stop, start)}, {blocks}")
            with f.loop("0", parts) as part, f.loop("0", blocks) as block:
                before = f.i64("add", start, f.i64("mul", part.index, blocks))
                function = entry(f, f.i64("add", before, block.index))
                with f.loop("0", many) as t:
                    own = f.at(kind, sums_of(t.index), f.i64("mul", block.index, sums))
                    call(function, f.i64("add", group.index, t.index), own)
            with f.when(is_whole):
                end(first.index, turns, [sums_of(t) for t in range(tiles)])
            with f.when(f.do(f"xor i1 {is_whole}, true")), f.loop("0", many) as t:
                end(first.index, [f.i64("add", group.index, t.index)], [sums_of(t.index)])


def smaller(f: Function, a: str, b: str | int) -> str:
    return f.do(f"select i1 {f.do(f'icmp slt i64 {a}, {b}')}, i64 {a}, i64 {b}")
