"""Copies and element-wise operations: LLVM IR text with the sizes built in.

The steps of a plan become functions on the images ``first`` to ``last - 1`` of a group, which call kernels::

    steps(images, work, logits, data, first, last)

LLVM knows every stride and count, so that its vectoriser makes of the inner loops what the processor has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from mpt.engine.code import Function, Module
from mpt.engine.layout import Buffer, Copy, Pointwise

PARAMETERS = "ptr noalias %images, ptr noalias %work, ptr noalias %logits, ptr noalias %data, i64 %first, i64 %last"


def address(f: Function, buffer: Buffer, start: int, image: str) -> str:
    """Address of entry ``start`` of the given image, or of the image's group where it is the group's first."""
    base = f.at("i8", f"%{buffer.space}", buffer.start + start * buffer.size)
    if buffer.space == "work" and buffer.images == 1:
        return base
    b = buffer.interleaved
    if b == 1:
        return f.at("i8", base, f.i64("mul", image, buffer.stride * buffer.size))
    group = f.do(f"lshr i64 {image}, {b.bit_length() - 1}")
    entry = f.i64("add", f.i64("mul", group, buffer.stride), f.do(f"and i64 {image}, {b - 1}"))
    return f.at("i8", base, f.i64("mul", entry, buffer.size))


@contextmanager
def images(f: Function, *, step: int = 1) -> Iterator[str]:
    """A loop over the images, or over the first image of each ``step``."""
    first = "%first" if step == 1 else f.do(f"and i64 %first, {-step}")
    last = "%last" if step == 1 else f.do(f"and i64 {f.do(f'add i64 %last, {step - 1}')}, {-step}")
    with f.loop(first, last, step=step) as loop:
        yield loop.index


def splat(f: Function, kind: str, lanes: int, value: str) -> str:
    """A vector of ``lanes`` times ``value``."""
    one = f.do(f"insertelement <{lanes} x {kind}> poison, {kind} {value}, i64 0")
    return f.do(f"shufflevector <{lanes} x {kind}> {one}, <{lanes} x {kind}> poison, <{lanes} x i32> zeroinitializer")


def copy(f: Function, step: Copy, module: Module) -> None:
    """See :class:`mpt.engine.layout.Copy`. Steps of one shape share the loops."""
    sizes = (step.source.size, step.to.size)
    key = ("copy", step.counts, step.source_strides, step.to_strides, step.convert, sizes, step.margins)
    name = module.shared(
        key,
        lambda function: _copy(function, step, module),
        "ptr noalias %a, ptr noalias %b, ptr noalias %flips",
        loops=not (any(step.margins) or _is_plain(step) or _is_halved(step)),
    )
    flips = "null"
    if step.flips is not None:
        flips = f.at("i8", "%data", module.data.put(np.where(step.flips, -1, 1).astype(np.int8)))
    with images(f, step=step.source.interleaved if step.whole else 1) as image:
        a, b = address(f, step.source, step.starts[0], image), address(f, step.to, step.starts[1], image)
        f.say(f"call void @{name}(ptr {a}, ptr {b}, ptr {flips})")


def _is_plain(step: Copy) -> bool:
    """Whether whole rows are copied as they are."""
    return not step.convert and step.source_strides[2] == step.to_strides[2] == 1


def _is_halved(step: Copy) -> bool:
    """Whether every second entry of a row is copied as it is."""
    return not step.convert and (step.source_strides[2], step.to_strides[2]) == (2, 1)


def _copy(f: Function, step: Copy, module: Module) -> None:
    (channels, rows, columns), source, to = step.counts, step.source_strides, step.to_strides
    with f.loop(0, channels) as c, f.loop(0, rows) as r:
        x = f.at("i8", "%a", _place(f, source, c.index, r.index, step.source.size))
        y = f.at("i8", "%b", _place(f, to, c.index, r.index, step.to.size))
        if any(step.margins):
            _shifted(f, step, x, y, module.machine.lanes)
        elif _is_plain(step):
            word = f"i{module.machine.word}"
            module.declare(f"void @llvm.memcpy.p0.p0.{word}(ptr noalias writeonly, ptr noalias readonly, {word}, i1)")
            size = columns * step.to.size
            f.say(f"call void @llvm.memcpy.p0.p0.{word}(ptr {y}, ptr {x}, {word} {size}, i1 false)")
        elif _is_halved(step):
            _half(f, step, x, y, module.machine.lanes)
        else:
            factor = f.load("i8", f.at("i8", "%flips", c.index)) if step.flips is not None else None
            with f.loop(0, columns) as column:
                _one(f, step, x, y, column.index, factor)


def _shifted(f: Function, step: Copy, x: str, y: str, lanes: int) -> None:
    """One row and its margins by whole vectors, so that no store lies across two cache lines."""
    (before, after), columns = step.margins, step.counts[2]
    kind, width = "float" if step.to.size == 4 else "i8", before + columns + after
    many = min(width & -width, 4 * lanes // step.to.size)
    vector = f"<{many} x {kind}>"
    for start in range(0, width, many):
        first = start - before  # of the source; it may lie before its first column, or the end behind its last
        moved = max(first, 0) if before else min(first, columns - many)
        value = f.load(vector, f.at(kind, x, moved))
        if not 0 <= first <= columns - many:
            picks = [first + i - moved if 0 <= first + i < columns else many for i in range(many)]
            mask = ", ".join(f"i32 {pick}" for pick in picks)
            value = f.do(f"shufflevector {vector} {value}, {vector} zeroinitializer, <{many} x i32> <{mask}>")
        f.store(vector, value, f.at(kind, y, start))


def _half(f: Function, step: Copy, x: str, y: str, lanes: int) -> None:
    """Every second entry of one row, by vectors that read no further; the last one may write some entries again."""
    columns, kind = step.counts[2], "float" if step.to.size == 4 else "i8"
    many = 2 ** (min(columns, 4 * lanes // step.to.size).bit_length() - 1)
    vector = f"<{many} x {kind}>"
    picks = ", ".join(f"i32 {2 * i + (2 * i >= many)}" for i in range(many))  # the second vector begins one early
    for start in sorted({*range(0, columns - many + 1, many), columns - many}):
        a, b = (f.load(vector, f.at(kind, x, 2 * start + more)) for more in (0, many - 1))
        value = f.do(f"shufflevector {vector} {a}, {vector} {b}, <{many} x i32> <{picks}>")
        f.store(vector, value, f.at(kind, y, start))


def _place(f: Function, strides: tuple[int, ...], c: str, r: str, size: int) -> str:
    return f.i64("add", f.i64("mul", c, strides[0] * size), f.i64("mul", r, strides[1] * size))


def _one(f: Function, step: Copy, x: str, y: str, column: str, factor: str | None) -> None:
    """One entry, converted."""
    kinds = "float" if step.source.size == 4 else "i8", "float" if step.to.size == 4 else "i8"
    value = f.load(kinds[0], f.at(kinds[0], x, f.i64("mul", column, step.source_strides[2])))
    if step.convert == "sign":
        value = f.do(f"select i1 {f.do(f'fcmp oge float {value}, 0.0')}, i8 1, i8 -1")
    elif step.convert == "real":
        value = f.do(f"sitofp i8 {value} to float")
    elif factor is not None:
        value = f.do(f"mul i8 {value}, {factor}")
    f.store(kinds[1], value, f.at(kinds[1], y, f.i64("mul", column, step.to_strides[2])))


def pointwise(f: Function, step: Pointwise, module: Module) -> None:
    """See :class:`mpt.engine.layout.Pointwise`. Steps of one shape share the loops."""
    views = [view for view in (step.a, step.b, step.out) if view is not None]
    lines = tuple((view.channel, view.row) for view in views)
    key = ("pointwise", step.scale is None, step.relu, step.out.shape, step.out.buffer.interleaved, lines)
    parameters = ", ".join(f"ptr noalias %{name}" for name in ("a", "b", "out", "scale", "shift"))
    name = module.shared(key, lambda function: _pointwise(function, step), parameters, loops=True)
    numbers = [
        "null" if array is None else f.at("i8", "%data", module.data.put(array)) for array in (step.scale, step.shift)
    ]
    with images(f, step=step.out.buffer.interleaved) as image:
        places = [
            "null" if view is None else address(f, view.buffer, view.start, image)
            for view in (step.a, step.b, step.out)
        ]
        f.say(f"call void @{name}({', '.join(f'ptr {place}' for place in (*places, *numbers))})")


def _pointwise(f: Function, step: Pointwise) -> None:
    (channels, height, width), inner = step.out.shape, step.out.buffer.interleaved
    views = (step.a, step.b, step.out)
    flat = all(view is None or view.row == width for view in views)
    rows, columns = (1, height * width) if flat else (height, width)
    with f.loop(0, channels) as c, f.loop(0, rows) as y:
        a, b, out = (
            f.at("float", base, _place(f, (view.channel, view.row * inner), c.index, y.index, 1)) if view else ""
            for view, base in zip(views, ("%a", "%b", "%out"), strict=True)
        )
        scale, shift = (
            f.load("float", f.at("float", x, c.index)) if step.scale is not None else "" for x in ("%scale", "%shift")
        )
        with f.loop(0, columns * inner) as x:
            value = f.load("float", f.at("float", a, x.index))
            if scale:
                value = f.do(f"fadd float {f.do(f'fmul float {value}, {scale}')}, {shift}")
            if b:
                value = f.do(f"fadd float {value}, {f.load('float', f.at('float', b, x.index))}")
            if step.relu:
                value = f.do(f"select i1 {f.do(f'fcmp ogt float {value}, 0.0')}, float {value}, float 0.0")
            f.store("float", value, f.at("float", out, x.index))
