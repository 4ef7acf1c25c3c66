"""Operations -> steps, and memory for each value.

A value that a convolution of stride 1 reads is stored in one of its planes from the start
(:mod:`mpt.engine.layout`); other planes are copied from it. The zeros around planes are written once, when the
memory is made: a piece of memory is used again only for values of the same layout, which leave the same places alone.
Each thread has memory of its own.

The first steps run for one image at a time, which keeps it in the cache; the rest, from the first layer on whose
weights fill the cache themselves, for up to ``GROUP`` images at a time, so that the weights are read once for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mpt.engine.graph import Node, Shape
from mpt.engine.layout import (
    GROUP,
    LINE,
    Buffer,
    Copy,
    Planes,
    Pointwise,
    Pooling,
    Product,
    Step,
    View,
    fits,
    spread,
    vector,
)

LATE = 60_000  # kept weights from which a layer's code (some 7 bytes each) crowds images out of a cache of 1 MiB


@dataclass
class Plan:
    """The steps for one image, the steps for a group of images, and the memory that they need."""

    first: list[Step] = field(default_factory=list)
    rest: list[Step] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    start: int = 0  # of its memory, within the memory of a thread

    @property
    def bytes(self) -> int:
        """Size of its memory."""
        return sum(_bytes(buffer) for buffer in self.buffers)


def _bytes(buffer: Buffer) -> int:
    """Bytes of a buffer, to whole cache lines."""
    groups = -(-buffer.images // buffer.interleaved)
    return -(-groups * buffer.stride * buffer.size // LINE) * LINE


def plan(nodes: Sequence[Node], *, lanes: int, padded: bool = False, single: bool = False, start: int = 0) -> Plan:
    """Memory and steps of the operations ``nodes`` for vectors of ``lanes`` float32.

    ``padded`` allows planes with zeros between their rows (:mod:`mpt.engine.layout`). ``single`` is for one image: its
    features lie next to each other. The memory begins at ``start``.
    """
    layout = _Layout(nodes, lanes, padded=padded, single=single, start=start)
    for i, node in enumerate(nodes):
        layout.add(i, node)
    layout.finish(nodes[-1])
    return layout.plan


class _Layout:
    def __init__(self, nodes: Sequence[Node], lanes: int, *, padded: bool, single: bool, start: int) -> None:
        self.nodes, self.lanes, self.single, self.plan = nodes, lanes, single, Plan(start=start)
        self.binary = any(node.binary for node in nodes)
        self.padded = padded and not self.binary
        self.views: dict[int, View] = {}
        self.planes: dict[tuple[int, Planes], tuple[Buffer, int]] = {}  # of (value, planes): written, and where
        self.homes: dict[int, Planes] = {}  # values that lie in one of these planes
        self.free: dict[tuple[object, ...], list[Buffer]] = {}
        self.dies: dict[int, list[tuple[tuple[object, ...], Buffer]]] = {}  # at which step a buffer is free again
        self.late = next((i for i, node in enumerate(nodes) if self._is_late(node)), len(nodes))
        self.last, self.step = self._last_uses(), 0

    def interleaved(self, shape: Shape) -> int:
        """Images side by side in a vector, for values of ``shape``."""
        pixels, images = shape[1] * shape[2], 1
        if pixels == 1 and self.single:
            return 1
        wanted = vector(pixels, lanes=self.lanes) if self.binary else self.lanes
        while pixels * images < wanted:
            images *= 2
        return images

    def _is_late(self, node: Node) -> bool:
        heavy = node.conv is not None and node.conv.kept > LATE
        return heavy or self.interleaved(node.shape) > 1

    def _is_alias(self, node: Node) -> bool:
        return node.kind == "flatten" and node.inputs[0].shape == node.shape

    def _last_uses(self) -> dict[int, int]:
        """The last operation that reads each value."""
        last = {id(node): i for i, node in enumerate(self.nodes)}
        for i in range(len(self.nodes) - 1, -1, -1):
            node = self.nodes[i]
            for source in node.inputs:
                last[id(source)] = max(last[id(source)], last[id(node)] if self._is_alias(node) else i)
        last[id(self.nodes[-1])] = len(self.nodes)
        node = self.nodes[-1]
        while self._is_alias(node):
            node = node.inputs[0]
            last[id(node)] = len(self.nodes)
        return last

    def emit(self, step: Step) -> None:
        (self.plan.rest if self.step >= self.late else self.plan.first).append(step)

    def buffer(self, key: tuple[object, ...], entries: int, *, size: int, interleaved: int, last: int) -> Buffer:
        """Memory of ``entries`` a group of images, free behind operation ``last`` for others of the same ``key``."""
        images = GROUP if last >= self.late else 1
        key = (*key, entries, size, interleaved, images)
        if self.free.get(key):
            found = self.free[key].pop()
        else:
            stride = -(-entries * size // LINE) * LINE // size
            start = self.plan.start + self.plan.bytes
            found = Buffer("work", stride, images, interleaved, size, start)
            self.plan.buffers.append(found)
        self.dies.setdefault(last, []).append((key, found))
        return found

    def add(self, i: int, node: Node) -> None:
        self.step = i
        getattr(self, f"_{node.kind}")(node)
        for key, buffer in self.dies.pop(i, []):
            self.free.setdefault(key, []).append(buffer)

    def out(self, node: Node) -> View:
        """Memory for the value of ``node``: in a plane of the first convolution that has one for it."""
        size, interleaved, last = 1 if node.binary else 4, self.interleaved(node.shape), self.last[id(node)]
        takers = (taker for taker in self.nodes if taker.conv is not None and taker.inputs[0] is node)
        for planes in map(self.planes_of, takers):
            same = planes.interleaved == interleaved and planes.padded <= self.is_padded(node.shape)
            if planes.home is not None and not planes.plain and same:
                buffer = self.buffer((planes,), planes.entries, size=size, interleaved=interleaved, last=last)
                view = View(buffer, planes.home, planes.channel, node.shape, planes.row)
                self.homes[id(node)] = planes
                break
        else:
            channel = spread(node.shape[1] * node.shape[2] * interleaved, size)
            buffer = self.buffer(("plain",), node.shape[0] * channel, size=size, interleaved=interleaved, last=last)
            view = View(buffer, 0, channel, node.shape, node.shape[2])
        self.views[id(node)] = view
        return view

    def is_padded(self, shape: Shape) -> bool:
        """Whether rows of values of ``shape`` may have margins."""
        return self.padded and fits(shape[2], interleaved=self.interleaved(shape), lanes=self.lanes)

    def planes_of(self, node: Node) -> Planes:
        """What the convolution ``node`` reads."""
        assert node.conv is not None
        conv, source = node.conv, node.inputs[0]
        kernel = (conv.weight.shape[2], conv.weight.shape[3])
        return Planes(
            source.shape,
            node.shape[1:],
            kernel,
            conv.stride,
            conv.padding,
            conv.dilation,
            self.interleaved(node.shape),
            1 if source.binary else 4,
            self.is_padded(node.shape),
        )

    def _input(self, node: Node) -> None:
        c, h, w = node.shape
        view = View(Buffer("images", c * h * w, GROUP), 0, h * w, node.shape, w)
        self.views[id(node)] = view
        if self.interleaved(node.shape) > 1:
            self.copy(view, self.out(node))

    def _conv(self, node: Node) -> None:
        assert node.conv is not None
        source, planes = node.inputs[0], self.planes_of(node)
        view, conv = self.views[id(source)], node.conv
        if planes.plain:
            buffer, start, row = view.buffer, view.start, view.row
            offsets = (np.arange(source.shape[0]) * view.channel)[:, None, None]
        else:
            buffer, start = self.planes.get((id(source), planes)) or self._write_planes(source, planes)
            offsets, row = planes.offsets(), planes.row
        residual = self.views[id(node.inputs[1])] if len(node.inputs) > 1 else None
        alone = self.single or self.step < self.late
        step = Product(node.name, conv, buffer, start, row, offsets, self.out(node), residual, source.binary, alone)
        self.emit(replace(step, offsets=offsets // step.unit))

    def _write_planes(self, source: Node, planes: Planes) -> tuple[Buffer, int]:
        """Steps that fill the planes of ``source``; their buffer and start."""
        view, b = self.views[id(source)], planes.interleaved
        at_home = self.homes.get(id(source)) == planes
        if at_home:
            assert planes.home is not None
            buffer, start = view.buffer, view.start - planes.home
        else:
            last = max(i for i, node in enumerate(self.nodes) if node.conv is not None and node.inputs[0] is source)
            buffer, start = self.buffer((planes,), planes.entries, size=planes.size, interleaved=b, last=last), 0
        for first in planes.firsts:
            for phase in planes.phases:
                if not at_home or not 0 <= view.start - start - planes.place(first, phase) < planes.area:
                    self._write_plane(view, planes, buffer, start, first, phase)
        self.planes[id(source), planes] = buffer, start
        return buffer, start

    def _write_plane(self, view: View, planes: Planes, buffer: Buffer, start: int, first: int, phase: int) -> None:
        """The rows and columns of one plane that lie inside the image."""
        (_, height, width), b, (down, right) = planes.shape, planes.interleaved, planes.stride
        top, left = phase - planes.padding[0], first - planes.padding[2]
        rows = [r for r in range(planes.rows) if 0 <= r * down + top < height]
        columns = [x for x in range(planes.columns) if 0 <= x * right + left < width]
        if not rows or not columns:
            return
        inner, line = view.buffer.interleaved, planes.row * b
        margins = columns[0], planes.columns - 1 - columns[-1]
        if planes.row % 4 or not b == inner == right == 1 or view.row != planes.row or planes.padded or all(margins):
            margins = 0, 0  # no whole vectors
        source = view.start + ((rows[0] * down + top) * view.row + columns[0] * right + left) * inner
        to = start + planes.place(first, phase) + rows[0] * line + (columns[0] - margins[0] - planes.before) * b
        counts = planes.shape[0], len(rows), len(columns)
        strides = (view.channel, down * view.row * inner, right * inner), (planes.channel, line, b)
        self.emit(_gathered(Copy(view.buffer, buffer, (source, to), counts, *strides, margins=margins)))

    def copy(self, view: View, to: View, *, convert: str = "", flips: np.ndarray | None = None) -> None:
        """All of ``view`` to ``to``, which has the same entries in the same order."""
        inner, outer = view.buffer.interleaved, to.buffer.interleaved
        line = (to.channel, to.row * outer, outer)
        if view.shape != to.shape:  # flattened: pixels become channels
            assert to.pixels == 1
            line = (view.pixels * to.channel, view.shape[2] * to.channel, to.channel)
        counts, strides = view.shape, (view.channel, view.row * inner, inner)
        self.emit(
            _gathered(Copy(view.buffer, to.buffer, (view.start, to.start), counts, strides, line, convert, flips))
        )

    def _flatten(self, node: Node) -> None:
        if self._is_alias(node):
            self.views[id(node)] = self.views[id(node.inputs[0])]
        else:
            self.copy(self.views[id(node.inputs[0])], self.out(node))

    def _sign(self, node: Node) -> None:
        self.copy(self.views[id(node.inputs[0])], self.out(node), convert="sign")

    def _real(self, node: Node) -> None:
        self.copy(self.views[id(node.inputs[0])], self.out(node), convert="real")

    def _flip(self, node: Node) -> None:
        self.copy(self.views[id(node.inputs[0])], self.out(node), convert="flip", flips=node.flips)

    def _concat(self, node: Node) -> None:
        out, channels = self.out(node), 0
        for source in node.inputs:
            part = replace(out, start=out.start + channels * out.channel, shape=source.shape)
            self.copy(self.views[id(source)], part)
            channels += source.shape[0]

    def _pool(self, node: Node) -> None:
        assert node.pool is not None
        self.emit(Pooling(self.views[id(node.inputs[0])], self.out(node), node.pool))

    def _pointwise(self, node: Node) -> None:
        a, *others = (self.views[id(source)] for source in node.inputs)
        scale, shift = (node.affine.scale, node.affine.shift) if node.affine else (None, None)
        relu = node.kind == "relu" or node.relu
        self.emit(Pointwise(a, others[0] if others else None, self.out(node), scale, shift, relu))

    _affine = _relu = _add = _pointwise

    def finish(self, last: Node) -> None:
        """The last step: the output to the caller's memory."""
        c, h, w = last.shape
        self.step = max(self.step, self.late)
        self.copy(self.views[id(last)], View(Buffer("logits", c * h * w, GROUP), 0, h * w, last.shape, w))


def _gathered(copy: Copy) -> Copy:
    """``copy`` with runs as long as they are: interleaved images as further columns, adjoining rows as one."""
    inner = copy.source.interleaved
    (channels, rows, columns), (sc, sr, sx), (tc, tr, tx) = copy.counts, copy.source_strides, copy.to_strides
    if inner == copy.to.interleaved and sx == tx == inner:
        columns, sx, tx = columns * inner, 1, 1
        copy = replace(copy, whole=True)
    if rows > 1 and sr == columns * sx and tr == columns * tx:
        rows, columns = 1, rows * columns
    if copy.flips is None and channels > 1 and rows == 1 and sc == columns * sx and tc == columns * tx:
        channels, columns = 1, channels * columns
    return replace(copy, counts=(channels, rows, columns), source_strides=(sc, sr, sx), to_strides=(tc, tr, tx))
