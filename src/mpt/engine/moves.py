"""Kernels other than products: copies, pools and element-wise operations. LLVM IR text with the sizes built in.

The steps of a plan become functions on the images ``first`` to ``last - 1`` of a group, which call kernels::

    steps(images, work, logits, data, first, last)

LLVM knows every stride and count, so that its vectoriser makes of the inner loops what the processor has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

import numpy as np

from mpt.engine.code import Function, Module
from mpt.engine.graph import Windows
from mpt.engine.layout import Buffer, Copy, Pointwise, Pooling

PARAMETERS = "ptr noalias %images, ptr noalias %work, ptr noalias %logits, ptr noalias %data, i64 %first, i64 %last"
UNROLLED = 16  # taps of a window that are written out


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
        loops=not any(step.margins) and not _is_plain(step),
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


def pooling(f: Function, step: Pooling, module: Module) -> None:
    """See :class:`mpt.engine.layout.Pooling`. Steps of one shape share the loops."""
    views = (step.source, step.out)
    layout = tuple((view.shape, view.channel, view.row, view.buffer.interleaved, view.buffer.size) for view in views)
    key, parameters = ("pool", step.pool, layout), "ptr noalias %a, ptr noalias %b"
    name = module.shared(key, lambda g: _pooling(g, step), parameters, loops=True)
    with images(f) as image:
        a, b = (address(f, view.buffer, view.start, image) for view in views)
        f.say(f"call void @{name}(ptr {a}, ptr {b})")


def _pooling(f: Function, step: Pooling) -> None:
    """Output rows and columns in runs whose windows move evenly."""
    pool, kind = step.pool, "float" if step.source.buffer.size == 4 else "i8"
    parts = list(product(_runs(pool.rows, pool.row_sizes), _runs(pool.columns, pool.column_sizes)))
    with f.loop(0, step.out.shape[0]) as c:
        x = f.at(kind, "%a", f.i64("mul", c.index, step.source.channel))
        y = f.at(kind, "%b", f.i64("mul", c.index, step.out.channel))
        for rows, columns in parts:
            if step.source.buffer.interleaved == step.out.buffer.interleaved == 1 and _halves(columns):
                _halved(f, step, kind, (x, y), rows, columns)
                continue
            with f.loop(0, len(rows)) as i, f.loop(0, len(columns)) as j:
                value = _window(f, step, kind, x, rows, columns, (i.index, j.index))
                if pool.kind == "mean":
                    value = f.do(f"fmul float {value}, {constant(1 / (rows.size * columns.size))}")
                row, column = f.i64("add", i.index, rows.first), f.i64("add", j.index, columns.first)
                place = f.i64("add", f.i64("mul", row, step.out.row), column)
                f.store(kind, value, f.at(kind, y, f.i64("mul", place, step.out.buffer.interleaved)))


def _halves(columns: _Run) -> bool:
    """Whether each output column looks at two input columns of its own."""
    return columns.places == (0, 1) and columns.move == 2


def _halved(f: Function, step: Pooling, kind: str, at: tuple[str, str], rows: _Run, columns: _Run) -> None:
    """Such a run by vectors: rows joined first, then the even columns with the odd ones; the rest one by one."""
    width, done = step.source.row, 0
    with f.loop(0, len(rows)) as i:
        row = f.i64("mul", f.i64("add", f.i64("mul", i.index, rows.move), rows.start), width)
        line = f.i64("add", f.i64("mul", f.i64("add", i.index, rows.first), step.out.row), columns.first)
        for many in (16, 8, 4, 2, 1):
            vector, pairs = f"<{many} x {kind}>", f"<{2 * many} x {kind}>"
            count = (len(columns) - done) // many
            with f.loop(0, count) as j:
                start = f.i64("add", f.i64("mul", j.index, 2 * many), 2 * done + columns.start)
                first = f.at(kind, at[0], f.i64("add", row, start))
                values = [f.load(pairs, f.at(kind, first, down * width)) for down in rows.places]
                total = values[0]
                for value in values[1:]:
                    total = _joined(f, step, pairs, total, value)
                even, odd = (
                    f.do(f"shufflevector {pairs} {total}, {pairs} poison, <{many} x i32> <{', '.join(picks)}>")
                    for picks in ([f"i32 {2 * k + turn}" for k in range(many)] for turn in (0, 1))
                )
                value = _joined(f, step, vector, even, odd)
                if step.pool.kind == "mean":
                    value = f.do(
                        f"fmul {vector} {value}, {splat(f, kind, many, constant(1 / (rows.size * columns.size)))}"
                    )
                place = f.i64("add", line, f.i64("add", f.i64("mul", j.index, many), done))
                f.store(vector, value, f.at(kind, at[1], place))
            done += count * many


def constant(value: float) -> str:
    """A float32 as LLVM writes it."""
    return f"0x{int(np.array(np.float32(value), np.float64).view(np.uint64)):016X}"


class _Run:
    """Outputs from ``first`` on: windows begin at ``start``, move by ``move`` and look at ``places`` from there."""

    def __init__(self, first: int, window: tuple[int, ...], size: int) -> None:
        self.first, self.start, self.size = first, window[0], size
        self.places = tuple(place - window[0] for place in window)
        self.move, self.count = 0, 1

    def __len__(self) -> int:
        return self.count

    def takes(self, window: tuple[int, ...], size: int) -> bool:
        """Whether ``window`` goes on like those so far; then it is one of them."""
        move = window[0] - self.start if self.count == 1 else self.move
        fits = size == self.size and window[0] == self.start + self.count * move
        if not fits or tuple(place - window[0] for place in window) != self.places:
            return False
        self.move, self.count = move, self.count + 1
        return True


def _runs(windows: Windows, sizes: tuple[int, ...]) -> list[_Run]:
    runs: list[_Run] = []
    for i, (window, size) in enumerate(zip(windows, sizes, strict=True)):
        if not runs or not runs[-1].takes(window, size):
            runs.append(_Run(i, window, size))
    return runs


def _window(f: Function, step: Pooling, kind: str, x: str, rows: _Run, columns: _Run, at: tuple[str, str]) -> str:
    """Maximum or sum of one window."""
    width, b = step.source.row, step.source.buffer.interleaved
    row = f.i64("add", f.i64("mul", at[0], rows.move), rows.start)
    column = f.i64("add", f.i64("mul", at[1], columns.move), columns.start)
    start = f.at(kind, x, f.i64("mul", f.i64("add", f.i64("mul", row, width), column), b))
    if len(rows.places) * len(columns.places) <= UNROLLED:
        value = None
        for down, right in product(rows.places, columns.places):
            tap = f.load(kind, f.at(kind, start, (down * width + right) * b))
            value = tap if value is None else _joined(f, step, kind, value, tap)
        assert value is not None
        return value
    steps = [places[1] if len(places) > 1 else 1 for places in (rows.places, columns.places)]
    first = f.load(kind, start) if step.pool.kind == "max" else "0.0"
    with f.loop(0, len(rows.places), carried=[(kind, first)]) as i:
        with f.loop(0, len(columns.places), carried=[(kind, i.values[0])]) as j:
            place = f.i64("add", f.i64("mul", i.index, steps[0] * width * b), f.i64("mul", j.index, steps[1] * b))
            j.next = [_joined(f, step, kind, j.values[0], f.load(kind, f.at(kind, start, place)))]
        i.next = [j.values[0]]
    return i.values[0]


def _joined(f: Function, step: Pooling, kind: str, a: str, b: str) -> str:
    """Sum or maximum of two numbers, or of two vectors entry by entry."""
    if step.pool.kind == "mean":
        return f.do(f"fadd {kind} {a}, {b}")
    test = f.do(f"fcmp ogt {kind} {a}, {b}" if "float" in kind else f"icmp sgt {kind} {a}, {b}")
    truth = kind.replace("float", "i1").replace("i8", "i1")
    return f.do(f"select {truth} {test}, {kind} {a}, {kind} {b}")
