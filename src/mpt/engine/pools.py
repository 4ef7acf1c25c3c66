"""Pools: LLVM IR text with the sizes built in, as in :mod:`mpt.engine.moves`."""

from __future__ import annotations

from itertools import product

import numpy as np

from mpt.engine.code import Function, Module
from mpt.engine.graph import Windows
from mpt.engine.layout import Copy, Pooling
from mpt.engine.moves import address, copy, images, splat

UNROLLED = 16  # taps of a window that are written out


def constant(value: float) -> str:
    """A float32 as LLVM writes it."""
    return f"0x{int(np.array(np.float32(value), np.float64).view(np.uint64)):016X}"


def pooling(f: Function, step: Pooling, module: Module) -> None:
    """See :class:`mpt.engine.layout.Pooling`. Steps of one shape share the loops."""
    if (copied := _copied(step)) is not None:
        copy(f, copied, module)
        return
    views = (step.source, step.out)
    layout = tuple((view.shape, view.channel, view.row, view.buffer.interleaved, view.buffer.size) for view in views)
    key, parameters = ("pool", step.pool, layout), "ptr noalias %a, ptr noalias %b"
    name = module.shared(key, lambda g: _pooling(g, step), parameters, loops=True)
    with images(f) as image:
        a, b = (address(f, view.buffer, view.start, image) for view in views)
        f.say(f"call void @{name}(ptr {a}, ptr {b})")


def _copied(step: Pooling) -> Copy | None:
    """The copy that does the same, where each window is one entry and images do not lie side by side."""
    pool, source, out = step.pool, step.source, step.out
    rows, columns = _runs(pool.rows, pool.row_sizes), _runs(pool.columns, pool.column_sizes)
    if len(rows) > 1 or len(columns) > 1 or source.buffer.interleaved * out.buffer.interleaved > 1:
        return None
    (down,), (right,) = rows, columns
    if down.places != (0,) or right.places != (0,) or down.size * right.size > 1:
        return None
    first = source.start + down.start * source.row + right.start
    strides = (source.channel, down.move * source.row, right.move), (out.channel, out.row, 1)
    return Copy(source.buffer, out.buffer, (first, out.start), out.shape, *strides)


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
