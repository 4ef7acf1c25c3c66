"""Where each value lies in memory, and what a step of the computation is.

A vector holds neighbouring pixels of one channel. Values of images smaller than a vector hold several images, ``B``
of them interleaved, so that a vector is always full: ``memory[c][y][x][b]``. One layout serves every batch size,
because unrolled code has its offsets built in.

A convolution reads *planes*: for output column x, kernel column kx and kernel row ky it needs input column
``x s + kx d - left`` and row ``y s + ky d - top``. A plane (kx, phase) holds these columns, already shifted and
strided, and of the rows only one phase ``ky d mod s``, with rows of zeros around them:

    plane[c][kx, phase][row r][column x] = input[c][r s + phase - top][x s + kx d - left], or 0 outside

so that each weight (c, ky, kx) is one offset that is right for every output pixel (y, x), whatever the stride, and
every load is whole. For a 3x3 convolution of stride 1 these are three planes, of which the middle one is the input
itself. A 1x1 convolution of stride 1 reads values as they are.

:mod:`mpt.engine.plan` makes the steps, and gives each its memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mpt.engine.graph import Conv, Pool, Shape

GROUP = 16  # images that the later steps take together
LINE = 64  # bytes of a cache line


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
    """Entry (c, y, x) of image b of a group at ``start + c * channel + (y W + x) B + b``."""

    buffer: Buffer
    start: int
    channel: int
    shape: Shape

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

    @property
    def phases(self) -> list[int]:
        return sorted({ky * self.dilation[0] % self.stride[0] for ky in range(self.kernel[0])})

    @property
    def rows(self) -> int:
        return self.sides[0] + (self.kernel[0] - 1) * self.dilation[0] // self.stride[0]

    @property
    def area(self) -> int:
        """Entries of one plane of a channel."""
        return self.rows * self.sides[1] * self.interleaved

    @property
    def count(self) -> int:
        return self.kernel[1] * len(self.phases)

    @property
    def plain(self) -> bool:
        """Whether the value is read as it is."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and not any(self.padding)

    @property
    def middle(self) -> int | None:
        """The plane that is the input itself, if one is."""
        left, d = self.padding[2], self.dilation[1]
        same = self.stride == (1, 1) and self.sides[1] == self.shape[2] and left % d == 0 and left // d < self.kernel[1]
        return left // d if same and self.rows >= self.padding[0] + self.shape[1] else None

    def offsets(self) -> np.ndarray:
        """Offset of each weight (c, ky, kx) from the start of the planes."""
        c, ky, kx = np.ogrid[: self.shape[0], : self.kernel[0], : self.kernel[1]]
        down = ky * self.dilation[0]
        plane = kx * len(self.phases) + np.searchsorted(self.phases, down % self.stride[0])
        line = (c * self.count + plane) * self.rows + down // self.stride[0]
        offsets: np.ndarray = line * (self.sides[1] * self.interleaved)
        return offsets


@dataclass(frozen=True)
class Copy:
    """``to[c][r][x] = source[c][r][x]``, with strides of (channel, row, column) on both sides.

    ``convert`` is what happens on the way: "sign" (float32 -> one byte), "real" (back), "flip" (by ``flips``) or "".
    ``whole`` copies all interleaved images at once, as further columns.
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
    """A convolution: weight (c, ky, kx) reads ``source`` at ``start + unit * offsets[c, ky, kx]``."""

    name: str
    conv: Conv
    source: Buffer
    start: int
    offsets: np.ndarray
    out: View
    residual: View | None
    binary: bool  # the input is of one byte each

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
