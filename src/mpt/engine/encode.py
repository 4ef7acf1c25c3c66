"""Unrolled code as bytes of x86-64, written by NumPy: some 2,000,000 kept weights a second.

The functions of :mod:`mpt.engine.unrolled` consist of few instructions, so that no compiler is needed for them::

    vmovups  x, [base + offset]          an input that several outputs keep
    vaddps   s, s, x                     an output keeps it with +1; vsubps with -1
    vaddps   s, s, [base + offset]       an input that one output keeps
    vmovups  [sums + place], s           at the end
    lea      base, [inputs + place]      so that the offsets behind it are short
    prefetcht1 [ahead + offset]          once in 64 or 96 bytes of code
    add      ahead, 256

and of ``vpaddb`` and ``vpsubb`` where inputs are bytes. Register 0 is ``x``, all others are sums. LLVM would need two
more registers and 5 to 10 times as long, and its code is larger by a tenth.

Where additions are ``fused``, register 31 is a vector of ones, and every other addition is ``vfmadd231ps s, one, x``
(``vfnmadd231ps`` for -1), which gives the same sum. AMD's processors compute it on units that additions leave idle.
With AVX2 the instruction is a byte longer and gains nothing at P = .9.

An offset takes one byte instead of four if it is a multiple of ``unit`` within ``128 unit`` of its base, where ``unit``
is the bytes of a vector with AVX-512, else 1. There is a base for each remainder of ``unit``; a base moves where at
least three instructions gain by it.

What follows is asked for by :mod:`mpt.engine.fetches`.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, sections 2.3 (VEX) and 2.7 (EVEX).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from mpt.engine.fetches import fetches, start

INPUTS, SUMS, ONES = 7, 6, 2  # registers rdi rsi rdx, which hold the arguments on all systems but Windows
ONE = 31  # register of a vector of ones, where additions are fused
BASES = (2, 8, 9, 10, 11)  # registers rdx r8 r9 r10 r11, which a function may use; rax and rcx are for fetches
GAINS = 3  # instructions from which a move of a base, seven bytes, makes code shorter
RETURN = b"\xc3"
LEA = 7  # bytes


@dataclass(frozen=True)
class Operations:
    """(prefix, opcode) of each instruction, where prefix 0, 1, 2, 5 stand for none, 66, F3, 66 0F38.

    ``fused`` are those that compute ``s = 1 x + s`` and ``s = -1 x + s``.
    """

    add: tuple[int, int]
    subtract: tuple[int, int]
    load: tuple[int, int]
    store: tuple[int, int]
    fused: tuple[tuple[int, int], tuple[int, int]] | None = None


FLOATS = Operations((0, 0x58), (0, 0x5C), (0, 0x10), (0, 0x11))  # vaddps vsubps vmovups
FUSED = replace(FLOATS, fused=((5, 0xB8), (5, 0xBC)))  # vfmadd231ps vfnmadd231ps
BYTES = Operations((1, 0xFC), (1, 0xF8), (2, 0x6F), (2, 0x7F))  # vpaddb vpsubb vmovdqu
ZERO = (1, 0xEF)  # vpxor


@dataclass(frozen=True)
class Encoder:
    """Instructions on vectors of ``size`` bytes, in the encoding of AVX-512 (``wide``: 32 registers) or AVX (16).

    One instruction in ``space`` bytes of code fetches what follows.
    """

    size: int
    wide: bool
    operations: Operations
    space: int

    @property
    def unit(self) -> int:
        """What a short offset counts, in bytes."""
        return self.size if self.wide else 1

    def head(
        self, operation: tuple[np.ndarray | int, np.ndarray | int], reg: np.ndarray, first: np.ndarray
    ) -> np.ndarray:
        """Prefix and opcode, (n, bytes): target ``reg``, first operand ``first``; the other one follows."""
        reg, first = np.broadcast_arrays(reg, first)
        prefix, code = (np.broadcast_to(x, reg.shape) for x in operation)
        if not self.wide:
            second = (~reg & 8) << 4 | (~first & 15) << 3 | (self.size == 32) << 2 | prefix
            return np.stack([np.full_like(reg, 0xC5), second, code], axis=-1).astype(np.uint8)
        one = (~reg & 8) << 4 | 0x60 | (~reg & 16) | 1 + (prefix >> 2)
        two = (~first & 15) << 3 | 4 | prefix & 3
        three = np.full_like(reg, (self.size // 32) << 5) | (~first & 16) >> 1
        return np.stack([np.full_like(reg, 0x62), one, two, three, code], axis=-1).astype(np.uint8)

    def registers(
        self, operation: tuple[np.ndarray | int, np.ndarray | int], reg: np.ndarray, first: np.ndarray
    ) -> np.ndarray:
        """An instruction with ``x`` as its last operand, (n, bytes)."""
        last = (0xC0 | (reg & 7) << 3).astype(np.uint8)
        return np.concatenate([self.head(operation, reg, first), last[:, None]], axis=1)

    def memory(
        self,
        operation: tuple[np.ndarray | int, np.ndarray | int],
        reg: np.ndarray,
        first: np.ndarray,
        base: np.ndarray,
        offset: np.ndarray,
        short: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """An instruction with an operand at ``base + offset``: its longest form, (n, bytes), and which bytes it has.

        The offset counts units where it is ``short``.
        """
        head = self.head(operation, reg, first)
        if self.wide:
            head[:, 1] ^= ((base >= 8) << 5).astype(np.uint8)
        last = np.where(short, 0x40, 0x80) | (reg & 7) << 3 | (base & 7)
        places = np.ascontiguousarray(offset.astype("<i4")).view(np.uint8).reshape(-1, 4)
        made = np.concatenate([head, last.astype(np.uint8)[:, None], places], axis=1)
        there = np.ones(made.shape, bool)
        there[:, -3:] = ~short[:, None]
        return made, there


@dataclass(frozen=True)
class Block:
    """One function: ``taps`` from ``start`` to ``stop`` are its own, and it writes ``outputs`` sums.

    ``continues`` says that the sums begin with what is there already, else they begin with zero.
    """

    name: str
    start: int
    stop: int
    outputs: int
    continues: bool = False


def functions(taps: np.ndarray, signs: np.ndarray, blocks: Sequence[Block], make: Encoder) -> list[bytes]:
    """The code of each of ``blocks``, whose taps follow one another; see :class:`mpt.engine.unrolled.Unrolled`."""
    sizes = [block.stop - block.start for block in blocks]
    heads, tails = list[bytes](), list[bytes]()
    one = b""
    if make.operations.fused:
        one = _moves(make, make.operations.load, np.array([ONE]), np.array([ONES]), np.array([0]))
    for block in blocks:
        loads = _sums(make, block.outputs, make.operations.load)
        heads.append(start(make.space) + one + (loads if block.continues else _zeros(make, block.outputs)))
        tails.append(_sums(make, block.outputs, make.operations.store) + RETURN)
    around = np.array([len(head) + len(tail) for head, tail in zip(heads, tails, strict=True)])
    body, lengths = _body(taps, signs, np.repeat(np.arange(len(blocks)), sizes), around, make)
    ends = np.concatenate([[0], np.cumsum(lengths)])[np.cumsum([0, *sizes])].tolist()
    parts = zip(heads, pairwise(ends), tails, strict=True)
    return [head + body[start:stop] + tail for head, (start, stop), tail in parts]


def _body(
    taps: np.ndarray, signs: np.ndarray, function: np.ndarray, around: np.ndarray, make: Encoder
) -> tuple[bytes, np.ndarray]:
    """The code of all taps, one after another, and the number of bytes of each.

    ``around`` is how many further bytes each function has.
    """
    if not len(taps):
        return b"", np.zeros(0, np.int64)
    offsets, sums = taps[:, 0].astype(np.int64), taps[:, 1] + 1
    new = np.ones(len(taps), bool)
    new[1:] = (np.diff(offsets) != 0) | (np.diff(function) != 0)
    first = np.flatnonzero(new)
    uses = np.diff(first, append=len(taps))
    base, place, short, move = _bases(offsets[first], function[first], make.unit)
    load = make.operations.load
    operation, before = _additions(signs, sums, make.operations)
    plain = make.registers(operation, sums, before)

    alone = uses == 1  # loaded by the addition itself
    prefix, code = (np.where(alone, own[first], other) for own, other in zip(operation, load, strict=True))
    target, other = (np.where(alone, registers[first], 0) for registers in (sums, before))
    loads, there = make.memory((prefix, code), target, other, base, place, short)

    moves = np.zeros((len(first), LEA), np.uint8)
    moves[:, 0], moves[:, 1] = 0x48 | (base >= 8) << 2, 0x8D
    moves[:, 2] = 0x80 | (base & 7) << 3 | INPUTS
    moves[:, 3:] = np.ascontiguousarray(move.astype("<i4")).view(np.uint8).reshape(-1, 4)
    moved = np.broadcast_to((move >= 0)[:, None], moves.shape)

    width = LEA + loads.shape[1]
    made = np.empty((len(taps), width + plain.shape[1]), np.uint8)
    kept = np.zeros(made.shape, bool)
    made[first, :width], kept[first, :width] = np.hstack([moves, loads]), np.hstack([moved, there])
    made[:, width:], kept[:, width:] = plain, True
    kept[first[alone], width:] = False
    asked = fetches(np.count_nonzero(kept, axis=1), function, around, make.space)
    made, kept = (np.hstack([a, b]) for a, b in zip(asked, (made, kept), strict=True))
    return made[kept].tobytes(), np.count_nonzero(kept, axis=1)


def _additions(
    signs: np.ndarray, sums: np.ndarray, operations: Operations
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """The operation of each tap, (prefix, opcode), and its first operand; every other one is fused if any is."""
    made = [np.where(signs > 0, a, b) for a, b in zip(operations.add, operations.subtract, strict=True)]
    first = sums.copy()
    if operations.fused:
        for own, a, b in zip(made, *operations.fused, strict=True):
            own[1::2] = np.where(signs > 0, a, b)[1::2]
        first[1::2] = ONE
    return (made[0], made[1]), first


def _bases(
    offsets: np.ndarray, function: np.ndarray, unit: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each load: base register, offset from it (in units where it is short), whether it is short, and where its
    base moves before it: bytes from the inputs, or -1."""
    rest, window = offsets % unit, offsets // (256 * unit)
    rests, kind, common = np.unique(rest, return_inverse=True, return_counts=True)
    rank = np.argsort(np.argsort(-common, kind="stable"))[kind]
    key = (function * (int(window.max()) + 1) + window) * len(rests) + kind
    _, start, group, gains = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
    short = (gains[group] >= GAINS) & (rank < len(BASES))
    base = np.where(short, np.array(BASES)[np.minimum(rank, len(BASES) - 1)], INPUTS)
    middle = window * 256 * unit + 128 * unit + rest
    place = np.where(short, (offsets - middle) // unit, offsets)
    move = np.full(len(offsets), -1)
    move[start] = middle[start]
    return base, place, short, np.where(short, move, -1)


def _zeros(make: Encoder, many: int) -> bytes:
    """``s = x ^ x`` for all sums."""
    sums = np.arange(1, many + 1)
    last = (0xC0 | (sums & 7) << 3).astype(np.uint8)
    return np.column_stack([make.head(ZERO, sums, np.zeros_like(sums)), last]).tobytes()


def _sums(make: Encoder, many: int, operation: tuple[int, int]) -> bytes:
    """Loads or stores of all sums."""
    sums = np.arange(1, many + 1)
    return _moves(make, operation, sums, np.full(many, SUMS), sums - 1)


def _moves(
    make: Encoder, operation: tuple[int, int], registers: np.ndarray, base: np.ndarray, place: np.ndarray
) -> bytes:
    """Loads or stores of registers: the vector ``place``, one of 128, from ``base``."""
    zero, short = np.zeros_like(registers), np.full(len(registers), make.wide)
    made, there = make.memory(operation, registers, zero, base, place * make.size // make.unit, short)
    return bytes(made[there])
