"""Bytes of unrolled code: LLVM's assembler makes the same, and what they compute, read one by one."""

from __future__ import annotations

import numpy as np
import pytest

from mpt.engine.code import Machine, llvm
from mpt.engine.encode import AHEAD, BASES, BYTES, FLOATS, INPUTS, PREFETCH, SPACE, Block, Encoder, functions

REGISTERS = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11"]
ENCODERS = [Encoder(32, False, FLOATS), Encoder(64, True, FLOATS), Encoder(32, True, FLOATS)]
ENCODERS += [Encoder(16, False, BYTES), Encoder(32, False, BYTES), Encoder(64, True, BYTES)]


def assemble(lines):
    """The bytes of lines of assembly, by LLVM: what lies between two marks in its object."""
    mark = b"mark of the test"
    text = "".join(
        f'module asm "{line}"\n'
        for line in [".text", f".ascii \\22{mark.decode()}\\22", *lines, f".ascii \\22{mark.decode()}\\22"]
    )
    machine = Machine.of("x86_64-linux-gnu")
    kind = llvm().Target.from_triple(machine.triple).create_target_machine("", "+avx512f,+avx512bw,+avx512vl", 0)
    made = bytes(kind.emit_object(llvm().parse_assembly(f'target triple = "{machine.triple}"\n{text}')))
    return made.split(mark)[1]


def word(make, register):
    return f"%{ {16: 'xmm', 32: 'ymm', 64: 'zmm'}[make.size] }{register}".replace(" ", "")


def names(make):
    """Mnemonic of each operation."""
    if make.operations is FLOATS:
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
        made += make.registers(getattr(make.operations, name), sums).tobytes()
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
def test_code_fetches_what_follows_it_evenly():
    taps, signs = (
        np.stack([np.arange(4000) * 64, np.arange(4000) % 31], axis=1).astype(np.int32),
        np.ones(4000, np.int8),
    )
    (made,) = functions(taps, signs, [Block("f", 0, 4000, 31)], ENCODERS[1])
    fetch = assemble([f"prefetcht1 {AHEAD}(%rip)"])
    assert len(fetch) == PREFETCH
    places = np.array([at for at in range(len(made)) if made.startswith(fetch, at)])
    assert len(places) == pytest.approx(len(made) / SPACE, rel=0.05)
    assert np.diff(places).max() <= SPACE + 20  # of one instruction


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
        found = _read(made, make)
        assert sorted(found) == list(range(block.outputs))
        for output, (begins, sums) in found.items():
            assert begins == ("there" if block.continues else "zero")
            assert sums == wanted.get(output, [])


def _read(made, make):
    """What a function stores: for each place, how the sum begins, and (sign, offset) of each addition."""
    registers, bases, stored, at = {}, {INPUTS: 0, 6: "sums"}, {}, 0
    codes = {getattr(make.operations, name)[1]: name for name in ("add", "subtract", "load", "store")}
    while made[at] != 0xC3:
        if made[at] in (0x48, 0x4C):  # lea
            target = (made[at + 2] >> 3 & 7) | (made[at] & 4) << 1
            bases[target] = int.from_bytes(made[at + 3 : at + 7], "little", signed=True)
            at += 7
            continue
        if made[at] == 0x0F:  # prefetcht1
            at += PREFETCH
            continue
        if make.wide:
            one, two, three, code, last = made[at + 1 : at + 6]
            reg = (~one >> 7 & 1) << 3 | (~one >> 4 & 1) << 4 | last >> 3 & 7
            first, high, at = (~two >> 3 & 15) | (~three >> 3 & 1) << 4, (~one >> 5 & 1) << 3, at + 6
        else:
            two, code, last = made[at + 1 : at + 4]
            reg, first, high, at = (~two >> 7 & 1) << 3 | last >> 3 & 7, ~two >> 3 & 15, 0, at + 4
        mode, base = last >> 6, last & 7 | high
        if code == 0xEF:
            registers[reg] = ("zero", [])
            continue
        if mode == 3:
            operand = registers[base]
        else:
            size = 1 if mode == 1 else 4
            offset = int.from_bytes(made[at : at + size], "little", signed=True) * (make.unit if mode == 1 else 1)
            operand, at = ("place", offset) if bases[base] == "sums" else bases[base] + offset, at + size
        name = codes[code]
        if name == "store":
            stored[operand[1] // make.size] = registers[reg]
        elif name == "load":
            registers[reg] = ("there", []) if isinstance(operand, tuple) else operand
        else:
            begins, sums = registers[first]
            registers[reg] = (begins, [*sums, (1 if name == "add" else -1, operand)])
    return stored
