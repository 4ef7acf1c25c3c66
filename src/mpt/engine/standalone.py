"""A ticket as an object file and a C header, for programs without Python.

    void mpt_run(const float *images, float *logits, int n, void *work)

computes what :func:`mpt.compile` computes. The object is one module of LLVM IR: the code of
:mod:`mpt.engine.program`, the unrolled layers, and the numbers that they read as a constant in which the addresses of
unrolled functions are relocations. It is position-independent and calls nothing but ``memcpy`` and ``memset`` of the C
library. LLVM's optimiser passes over the unrolled functions (``optnone``), which would take it fifty times as long.
"""

from __future__ import annotations

import sys

import numpy as np

from mpt.engine import objects, unrolled
from mpt.engine.code import Function, Machine
from mpt.engine.engine import operations
from mpt.engine.graph import Node
from mpt.engine.layout import LINE
from mpt.engine.program import ENTRY, Program, program
from mpt.ticket.ticket import Ticket

NAME = "mpt_run"
RATE = 40_000  # kept weights a second: all code goes through the register allocator of optimised code


def standalone(
    ticket: Ticket, *, machine: Machine, unroll: bool = False, image_size: int | tuple[int, int] | None = None
) -> tuple[bytes, str]:
    """The object file and the C header of a ticket.

    Args:
        ticket: a ticket whose network :func:`mpt.compile` takes.
        machine: what to compile for, :meth:`mpt.engine.code.Machine.of`.
        unroll: write the weights out as instructions, see :func:`mpt.compile`.
        image_size: side of the images, or (height, width); by default what the ticket or its network says.

    Raises:
        ValueError: see :func:`mpt.compile`.
    """
    nodes = operations(ticket, image_size=image_size)
    made = program(nodes, machine=machine, unroll=unroll, public=False)
    _announce(made)
    parts = [_data(made, machine), _run(made, machine), made.text]
    parts += [unrolled.text(layer, alone=False) for layer in made.layers]
    object_ = objects.optimised("\n".join(parts), machine, linked=True)
    return object_, _header(ticket, nodes, made, machine)


def _announce(made: Program) -> None:
    weights = sum(len(layer.signs) for layer in made.layers)
    if weights > RATE * unrolled.PATIENCE:
        seconds = weights / RATE
        print(f"mpt-ticket: unrolling {weights:,} weights takes about {seconds:.0f} s", file=sys.stderr, flush=True)


def _data(made: Program, machine: Machine) -> str:
    """The numbers as a constant: bytes, and between them addresses and sizes of unrolled functions."""
    pointer = "ptr" if machine.word == 64 else "ptr, [4 x i8]"
    kinds, values, done = list[str](), list[str](), 0
    for offset, name, size in [*made.entries(), (len(made.data), "", 0)]:
        if offset > done:
            kinds.append(f"[{offset - done} x i8]")
            content = "\\" + made.data[done:offset].hex("\\")
            values.append(f'{kinds[-1]} c"{content}"')
        if name:
            kinds += [pointer, "i64"]
            values += [f"ptr @{name}{'' if machine.word == 64 else ', [4 x i8] zeroinitializer'}", f"i64 {size}"]
        done = offset + 16
    kind = f"<{{ {', '.join(kinds)} }}>"
    return f"@mpt_data = internal constant {kind} <{{ {', '.join(values)} }}>, align {LINE}\n"


def _run(made: Program, machine: Machine) -> str:
    """The public function: from any address, the memory begins at the next cache line."""
    f, word = Function(NAME, "ptr %images, ptr %logits, i32 %n, ptr %work", public=True), f"i{machine.word}"
    count, place = f.do("sext i32 %n to i64"), f.do(f"ptrtoint ptr %work to {word}")
    rest = f.do(f"and {word} {f.do(f'sub {word} 0, {place}')}, {LINE - 1}")
    start = f.do(f"getelementptr i8, ptr %work, {word} {rest}")
    f.say(f"call void @{ENTRY}(ptr %images, ptr %logits, i64 {count}, ptr {start}, ptr @mpt_data)")
    return f.text()


def _header(ticket: Ticket, nodes: list[Node], made: Program, machine: Machine) -> str:
    """The C header; what the ticket says of its classes and images becomes literals of C."""
    (channels, height, width), outputs = nodes[0].shape, int(np.prod(nodes[-1].shape))
    sizes = {"CHANNELS": channels, "HEIGHT": height, "WIDTH": width, "CLASSES": outputs}
    lines = [f"#define MPT_{name} {size}" for name, size in sizes.items()]
    lines += [f"#define MPT_WORK_BYTES {made.work + LINE}"]
    normalization = ticket.header.get("normalization", {})
    for name in [name for name in ("mean", "std") if name in normalization]:
        numbers = ", ".join(f"{float(x)!r}f" for x in normalization[name])
        lines += [f"#define MPT_{name.upper()} {{{numbers}}}"]
    names = ticket.header.get("class_names", [])
    if len(names) == outputs:
        lines += [f"#define MPT_CLASS_NAMES {{{', '.join(map(_literal, names))}}}"]
    return HEADER.format(digest=ticket.digest, triple=machine.triple, cpu=machine.cpu, sizes="\n".join(lines))


def _literal(text: str) -> str:
    """``text`` as a string of C, in UTF-8."""
    plain = [chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in text.encode(errors="replace")]
    return f'"{"".join(plain)}"'


HEADER = """\
/* A ticket's network as machine code; written by mpt-ticket compile.

   ticket   {digest}
   machine  {triple}, {cpu}

   MPT_MEAN and MPT_STD, where the ticket says them, are for pixels in [0, 1], a number for each channel:
   pass (pixel - mean) / std. */

#ifndef MPT_RUN_H
#define MPT_RUN_H

{sizes}

#ifdef __cplusplus
extern "C" {{
#endif

/* Logits of n images.

   images   n x MPT_CHANNELS x MPT_HEIGHT x MPT_WIDTH floats, normalized as in the search
   logits   n x MPT_CLASSES floats, which are written
   work     MPT_WORK_BYTES bytes that are zero before the first call (calloc) and belong to these calls alone until
            the last; threads may call at the same time, each with work of its own */
void mpt_run(const float *images, float *logits, int n, void *work);

#ifdef __cplusplus
}}
#endif
#endif
"""
