"""Instructions of unrolled code: as LLVM's assembler writes them, and what they do, read one by one."""

from __future__ import annotations

from mpt.engine.code import Machine, llvm
from mpt.engine.encode import INPUTS, ONES, SUMS


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


def read(made, make, fetches=None):
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
