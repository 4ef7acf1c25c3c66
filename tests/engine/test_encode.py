"""Bytes of unrolled code: LLVM's assembler makes the same, and what they compute, read one by one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mpt.engine.code import Machine, llvm
from mpt.engine.encode import AHEAD, BASES, BYTES, FLOATS, FUSED, INPUTS, ONE, ONES, SUMS, Block, Encoder, functions

REGISTERS = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11"]
KINDS = [(32, False, FLOATS), (64, True, FLOATS), (32, True, FLOATS), (64, True, FUSED), (16, True, FUSED)]
KINDS += [(16, False, BYTES), (32, False, BYTES), (64, True, BYTES)]
ENCODERS = [Encoder(*kind, space=64) for kind in KINDS] + [Encoder(64, True, FLOATS, space=96)]


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
def test_a_fetch_and_what_moves_it_are_those_of_the_assembler():
    (made,) = functions(*dense(400), [Block("f", 0, 400, 30)], Encoder(64, True, FLOATS, space=64))
    begin = assemble([f"lea {AHEAD + 128 - 7}(%rip), %rax", "mov $256, %ecx"])
    assert made.startswith(begin)
    for line in ("prefetcht1 -128(%rax)", "prefetcht1 -64(%rax)", "prefetcht1 (%rax)", "prefetcht1 64(%rax)"):
        assert assemble([line]) in made
    assert assemble(["add %rcx, %rax", "prefetcht1 -128(%rax)"]) in made


def dense(kept):
    """Taps and signs of weights that are kept, one of each input."""
    return np.stack([np.arange(kept) * 64, np.arange(kept) % 30], axis=1).astype(np.int32), np.ones(kept, np.int8)


@pytest.mark.parametrize("space", [64, 96])
@pytest.mark.parametrize("make", ENCODERS[:5:2], ids=str)
def test_code_fetches_each_line_that_follows_it_once_and_in_time(make, space):
    taps, signs = dense(4001)
    blocks = [Block("f", 0, 3000, 14), Block("g", 3000, 3000, 14), Block("h", 3000, 4001, 14, True)]
    taps[:, 1] %= 14
    for block, made in zip(blocks, functions(taps, signs, blocks, dataclasses.replace(make, space=space)), strict=True):
        fetches = []
        _read(made, make, fetches)
        if block.start == block.stop:
            assert fetches == []
            continue
        places, lines = np.array(fetches).T
        wanted = AHEAD + space * np.arange(len(fetches))
        assert (lines == wanted).all()
        assert 0 <= AHEAD + space * len(fetches) - (AHEAD + len(made)) <= 8 * space
        assert np.abs(lines - AHEAD - places).max() <= 1200  # what is written before and behind the taps has none


@pytest.mark.parametrize("make", ENCODERS, ids=str)
@pytest.mark.parametrize("step", [4, 20, 64])
def test_code_adds_and_subtracts_each_tap_once_and_fuses_every_other_one(make, step):
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


def _read(made, make, fetches=None):
    """What a function stores: for each place, how the sum begins, and (sign, offset) of each addition.

    Where each fetch stands and what it fetches, from the function's start, goes to ``fetches``.
    """
    registers, bases, stored, at = {}, {INPUTS: 0, SUMS: "sums", ONES: "ones"}, {}, 0
    codes = {getattr(make.operations, name)[1]: name for name in ("add", "subtract", "load", "store")}
    codes |= dict(zip((code for _, code in make.operations.fused or ()), ("add", "subtract"), strict=False))
    while made[at] != 0xC3:
        if made.startswith(b"\x48\x8d\x05", at):  # lea rax, [rip + ...]
            ahead = at + 7 + int.from_bytes(made[at + 3 : at + 7], "little")
            at += 7
            continue
        if made[at] == 0xB9:  # mov ecx, ...
            move = int.from_bytes(made[at + 1 : at + 5], "little")
            at += 5
            continue
        if made.startswith(b"\x48\x01\xc8", at):  # add rax, rcx
            ahead += move
            at += 3
            continue
        if made[at] in (0x48, 0x4C):  # lea
            target = (made[at + 2] >> 3 & 7) | (made[at] & 4) << 1
            bases[target] = int.from_bytes(made[at + 3 : at + 7], "little", signed=True)
            at += 7
            continue
        if made[at] == 0x0F:  # prefetcht1 [rax + ...]
            offset = int.from_bytes(made[at + 3 : at + 4], "little", signed=True) if made[at + 2] == 0x50 else 0
            if fetches is not None:
                fetches.append((at, ahead + offset))
            at += 4 if made[at + 2] == 0x50 else 3
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
            operand, at = (bases[base], offset) if isinstance(bases[base], str) else bases[base] + offset, at + size
        name = codes[code]
        if name == "store":
            stored[operand[1] // make.size] = registers[reg]
        elif name == "load":
            registers[reg] = ("there", []) if isinstance(operand, tuple) and operand[0] == "sums" else operand
        else:
            if (code,) in [own[1:] for own in make.operations.fused or ()]:
                assert registers[first] == ("ones", 0)
                first = reg
            begins, sums = registers[first]
            registers[reg] = (begins, [*sums, (1 if name == "add" else -1, operand)])
    return stored
