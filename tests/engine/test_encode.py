"""Bytes of unrolled code: LLVM's assembler makes the same, and what they compute, read one by one."""

from __future__ import annotations

import numpy as np
import pytest

from mpt.engine.code import Machine
from mpt.engine.encode import BASES, BYTES, FLOATS, FUSED, INPUTS, ONE, Block, Encoder, functions
from tests.engine.instructions import assemble, read

REGISTERS = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11"]
KINDS = [(32, False, FLOATS), (64, True, FLOATS), (32, True, FLOATS), (64, True, FUSED), (16, True, FUSED)]
KINDS += [(16, False, BYTES), (32, False, BYTES), (64, True, BYTES)]
ENCODERS = [Encoder(*kind, space=64) for kind in KINDS] + [Encoder(64, True, FLOATS, space=96)]


def word(make, register):
    return f"%{ {16: 'xmm', 32: 'ymm', 64: 'zmm'}[make.size] }{register}".replace(" ", "")


def names(make):
    """Mnemonic of each operation."""
    if make.operations is not BYTES:
        return {"add": "vaddps", "subtract": "vsubps", "load": "vmovups", "store": "vmovups"}
    move = "vmovdqu32" if make.wide else "vmovdqu"
    return {"add": "vpaddb", "subtract": "vpsubb", "load": move, "store": move}


def prefix(make):
    """Where registers below 16 leave the choice, the wide encoding of LLVM has to be asked for."""
    return "{evex} " if make.wide else ""


@pytest.mark.skipif(not Machine.host().encoded, reason="LLVM cannot assemble x86-64 here")
@pytest.mark.parametrize("make", ENCODERS, ids=str)
def test_instructions_are_those_of_the_assembler(make):
    lines, made = [], b""
    sums = np.arange(1, 32 if make.wide else 16)
    for name in ("add", "subtract"):
        made += make.registers(getattr(make.operations, name), sums, sums).tobytes()
        lines += [f"{prefix(make)}{names(make)[name]} {word(make, 0)}, {word(make, s)}, {word(make, s)}" for s in sums]
        for base in (INPUTS, *BASES) if make.wide else (INPUTS, 0, 1):
            for offset, short in ((-128, True), (5, True), (127, True), (128 * make.unit, False), (10**6 + 1, False)):
                one = np.full(len(sums), 1)
                own, there = make.memory(
                    getattr(make.operations, name), sums, sums, base * one, offset * one, (one * short).astype(bool)
                )
                made += own[there].tobytes()
                place = f"{offset * make.unit if short else offset}(%{REGISTERS[base]})"
                lines += [f"{prefix(make)}{names(make)[name]} {place}, {word(make, s)}, {word(make, s)}" for s in sums]
    for name, operation in zip(("vfmadd231ps", "vfnmadd231ps"), make.operations.fused or (), strict=False):
        first = np.full_like(sums, ONE)
        made += make.registers(operation, sums, first).tobytes()
        lines += [f"{name} {word(make, 0)}, {word(make, ONE)}, {word(make, s)}" for s in sums]
        own, there = make.memory(operation, sums, first, 8 + 0 * sums, 5 + 0 * sums, sums > 0)
        made += own[there].tobytes()
        lines += [f"{name} {5 * make.unit}(%r8), {word(make, ONE)}, {word(make, s)}" for s in sums]
    one, zero = np.ones(1, int), np.zeros(1, int)
    for name in ("load", "store"):
        for s in sums:
            own, there = make.memory(
                getattr(make.operations, name), s * one, zero, 6 * one, 1000 * one, zero.astype(bool)
            )
            made += own[there].tobytes()
            ends = ["1000(%rsi)", word(make, s)]
            lines.append(f"{prefix(make)}{names(make)[name]} {', '.join(ends if name == 'load' else ends[::-1])}")
    assert made == assemble(lines)


@pytest.mark.skipif(not Machine.host().encoded, reason="LLVM cannot assemble x86-64 here")
def test_every_other_addition_is_fused():
    signs = np.array([1, -1, -1, 1, 1, -1], np.int8)
    taps = np.stack([np.zeros(6), np.arange(6)], axis=1).astype(np.int32)
    (made,) = functions(taps, signs, [Block("f", 0, 6, 6)], Encoder(64, True, FUSED, space=64))
    assert assemble(["{evex} vmovups (%rdx), %zmm31"])[:-1] in made
    for i, sign in enumerate(signs):
        plain = assemble([f"{{evex}} {'vaddps' if sign > 0 else 'vsubps'} %zmm0, %zmm{i + 1}, %zmm{i + 1}"])
        fused = assemble([f"{'vfmadd231ps' if sign > 0 else 'vfnmadd231ps'} %zmm0, %zmm31, %zmm{i + 1}"])
        assert (plain in made, fused in made) == (i % 2 == 0, i % 2 == 1)


@pytest.mark.parametrize("make", ENCODERS, ids=str)
@pytest.mark.parametrize("step", [4, 20, 64])
def test_code_adds_and_subtracts_each_tap_once(make, step):
    rng = np.random.default_rng(step)
    taps, signs, blocks = [], [], []
    for i, (kept, outputs) in enumerate([(900, 15), (0, 3), (1, 1), (400, 7), (2, 15)]):
        own = np.unique(
            np.stack([rng.integers(0, 30_000 // step, kept) * step, rng.integers(0, outputs, kept)], 1), axis=0
        )
        blocks.append(Block(f"f{i}", len(taps), len(taps) + len(own), outputs, i == 3))
        taps += own.tolist()
        signs += rng.choice([-1, 1], len(own)).tolist()
    taps, signs = np.array(taps, np.int32), np.array(signs, np.int8)
    for block, made in zip(blocks, functions(taps, signs, blocks, make), strict=True):
        wanted = {}
        for (offset, output), sign in zip(taps[block.start : block.stop], signs[block.start : block.stop], strict=True):
            wanted.setdefault(int(output), []).append((int(sign), int(offset)))
        found = read(made, make)
        assert sorted(found) == list(range(block.outputs))
        for output, (begins, sums) in found.items():
            assert begins == ("there" if block.continues else "zero")
            assert sums == wanted.get(output, [])
