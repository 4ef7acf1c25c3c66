"""Where each value lies in memory, and what a step of the computation is.

A vector holds neighbouring pixels of one channel. Values of images smaller than a vector hold several images, ``B``
of them interleaved, so that a vector is always full: ``memory[c][y][x][b]``. One layout serves every batch size,
because unrolled code has its offsets built in.

A convolution reads *planes*: for output column x, kernel column kx and kernel row ky it needs input column
``x s + kx d - left`` and row ``y s + ky d - top``. A plane holds the rows of one phase ``ky d mod s`` and the columns
from one ``first`` on, already strided, with zeros where the image ends:

    plane[c][first, phase][row r][column x] = input[c][r s + phase - top][x s + first - left], or 0 outside

so that each weight (c, ky, kx) is one offset that is right for every output pixel (y, x), whatever the stride. A
convolution of stride 1 finds one plane there: its input.

Planes are *shifted* or *padded*. There is a shifted plane for each kernel column kx: for a 3x3 convolution of stride 1
three, the middle one is the input, and every load is a whole cache line. There is a padded plane for each phase
``kx d mod s`` only, with zeros between the rows, so that a convolution of stride 1 needs no copy. Many loads then lie
across two lines, and take two cycles. That is no loss where a vector that was loaded is added three times, as in
unrolled code, and the copies would cost more: they fill the innermost cache. It is one for lists, which load for each
addition. Rows shorter than a vector cannot be padded (:func:`fits`), because a vector holds several.

A 1x1 convolution of stride 1 reads values as they are.

:mod:`mpt.engine.plan` makes the steps, and gives each its memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mpt.engine.graph import Conv, Pool, Shape

GROUP = 16  # images that the later steps take together
LINE = 64  # bytes of a cache line
WASTE = 1.15  # times the pixels of a row that may be computed, where its last vector overlaps the one before


@dataclass(eq=False)
class Buffer:
    """Memory of one value: ``stride`` entries for each ``interleaved`` images, ``images`` of them, ``size`` bytes each.

    ``space`` is "work", or "images" and "logits", which the caller owns.
    """

    space: str
    stride: int
    images: int
    interleaved: int = 1
    size: int = 4
    start: int = 0  # bytes from the start of the work memory


@dataclass(frozen=True)
class View:
    """Entry (c, y, x) of image b of a group at ``start + c * channel + (y * row + x) B + b``."""

    buffer: Buffer
    start: int
    channel: int
    shape: Shape
    row: int

    @property
    def pixels(self) -> int:
        return self.shape[1] * self.shape[2]


@dataclass(frozen=True)
class Planes:
    """The planes that a convolution of ``shape`` to ``sides`` reads; ``interleaved`` as of its output."""

    shape: Shape
    sides: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    interleaved: int
    size: int
    padded: bool

    @property
    def phases(self) -> list[int]:
        """First row of each plane downwards, from ``-top``."""
        return sorted({ky * self.dilation[0] % self.stride[0] for ky in range(self.kernel[0])})

    @property
    def firsts(self) -> list[int]:
        """First column of each plane across, from ``-left``."""
        columns = [kx * self.dilation[1] for kx in range(self.kernel[1])]
        return sorted({column % self.stride[1] for column in columns}) if self.padded else columns

    @property
    def rows(self) -> int:
        return self.sides[0] + (self.kernel[0] - 1) * self.dilation[0] // self.stride[0]

    @property
    def columns(self) -> int:
        return self.sides[1] + (self.kernel[1] - 1) * self.dilation[1] // self.stride[1] * self.padded

    @property
    def before(self) -> int:
        """Columns that lie at the end of the row before, so that an image's rows begin at a cache line."""
        return self.padding[2] if self.padded and self.stride == (1, 1) else 0

    @property
    def row(self) -> int:
        """Entries between rows."""
        return whole_lines(self.columns, self.size) if self.padded else self.columns

    @property
    def area(self) -> int:
        """Entries of one plane of a channel."""
        return spread(self.rows * self.row * self.interleaved, self.size)

    @property
    def channel(self) -> int:
        """Entries of all planes of a channel."""
        return spread(len(self.firsts) * len(self.phases) * self.area, self.size)

    @property
    def entries(self) -> int:
        """Entries of all channels, and of what comes before the first row."""
        return whole_lines(self.before, self.size) + self.shape[0] * self.channel

    @property
    def plain(self) -> bool:
        """Whether the value is read as it is."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and not any(self.padding)

    @property
    def home(self) -> int | None:
        """Where the input lies as it is, if it does."""
        (_, height, width), (top, _, left, _) = self.shape, self.padding
        for first in self.firsts:
            whole = left + width <= self.columns if self.padded else left == first and self.columns == width
            if whole and self.stride == (1, 1) and self.rows >= top + height:
                return self.place(first, 0) + top * self.row * self.interleaved
        return None

    def place(self, first: int, phase: int) -> int:
        """Where a plane begins, but for the columns ``before``."""
        plane = self.firsts.index(first) * len(self.phases) + self.phases.index(phase)
        return whole_lines(self.before, self.size) + plane * self.area

    def offsets(self) -> np.ndarray:
        """Offset of each weight (c, ky, kx) from the start of the planes."""
        c, ky, kx = np.ogrid[: self.shape[0], : self.kernel[0], : self.kernel[1]]
        down, across = ky * self.dilation[0], kx * self.dilation[1]
        phase = np.searchsorted(self.phases, down % self.stride[0])
        first = np.searchsorted(self.firsts, across % self.stride[1] if self.padded else across)
        plane = (first * len(self.phases) + phase) * self.area
        column = (across // self.stride[1] if self.padded else 0) - self.before
        inside = (down // self.stride[0] * self.row + column) * self.interleaved
        offsets: np.ndarray = whole_lines(self.before, self.size) + c * self.channel + plane + inside
        return offsets


@dataclass(frozen=True)
class Copy:
    """``to[c][r][x] = source[c][r][x]``, with strides of (channel, row, column) on both sides.

    ``convert`` is what happens on the way: "sign" (float32 -> one byte), "real" (back), "flip" (by ``flips``) or "".
    ``whole`` copies all interleaved images at once, as further columns. With ``margins``, as many zeros are written
    before and after each row, so that a row of ``to`` is whole vectors; a row of the source is as long.
    """

    source: Buffer
    to: Buffer
    starts: tuple[int, int]
    counts: tuple[int, int, int]
    source_strides: tuple[int, int, int]
    to_strides: tuple[int, int, int]
    convert: str = ""
    flips: np.ndarray | None = None
    whole: bool = False
    margins: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Pointwise:
    """``out = scale[c] a + shift[c] + b``, then ReLU; each part may be missing."""

    a: View
    b: View | None
    out: View
    scale: np.ndarray | None
    shift: np.ndarray | None
    relu: bool


@dataclass(frozen=True)
class Pooling:
    source: View
    out: View
    pool: Pool


@dataclass(frozen=True)
class Product:
    """A convolution: weight (c, ky, kx) reads ``source`` at ``start + unit * offsets[c, ky, kx]``.

    ``row`` entries lie between the places that neighbouring rows of the output read.
    """

    name: str
    conv: Conv
    source: Buffer
    start: int
    row: int
    offsets: np.ndarray
    out: View
    residual: View | None
    binary: bool  # the input is of one byte each
    alone: bool  # one image at a time

    @property
    def positions(self) -> int:
        """Entries of one channel of the output: pixels of all interleaved images."""
        return self.out.pixels * self.out.buffer.interleaved

    @property
    def single(self) -> bool:
        """Whether the output is features, which are computed by lists always: one list serves two layouts."""
        return self.out.pixels == 1 and not self.binary

    @property
    def unit(self) -> int:
        """What ``offsets`` count: entries, or entries of as many images as are interleaved."""
        return self.out.buffer.interleaved if self.single else 1


Step = Copy | Pointwise | Pooling | Product


def vector(pixels: int, *, lanes: int) -> int:
    """Lanes of a vector of bytes, for images of ``pixels``: four times as many as of float32, if they can be filled."""
    return int(min(4 * lanes, 2 ** int(math.log2(pixels * lanes))))


def fits(width: int, *, interleaved: int, lanes: int) -> bool:
    """Whether vectors of ``lanes`` begin anew in each row of ``width`` pixels."""
    return interleaved == 1 and width >= lanes and -(-width // lanes) * lanes <= WASTE * width


def spread(entries: int, size: int) -> int:
    """``entries`` and some more: channels or planes a power of two apart would share few lines of a cache."""
    lines = -(-entries * size // LINE)
    return entries if entries * size < 1024 else (lines + 1 - lines % 2) * LINE // size


def whole_lines(entries: int, size: int) -> int:
    """``entries`` to whole cache lines."""
    return -(-entries * size // LINE) * LINE // size
