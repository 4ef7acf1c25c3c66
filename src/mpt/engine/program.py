"""A plan -> one module of LLVM IR and the numbers that it reads.

    void mpt_steps(const float *images, float *logits, long n, void *work, const void *data)

takes the images in groups: for each group the first steps image by image, then the rest for all of them. ``work`` has
``plan.bytes`` bytes, zero at first, and belongs to one thread; ``data`` is :attr:`Program.data`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from mpt.engine import lanes as bytes_
from mpt.engine import lists, moves, unrolled
from mpt.engine.code import Function, Machine, Module
from mpt.engine.graph import Shape
from mpt.engine.layout import GROUP, Copy, Plan, Pointwise, Pooling, Product, Step, vector
from mpt.engine.unrolled import Unrolled

ENTRY = "mpt_steps"


@dataclass(frozen=True)
class Program:
    """IR text of the entry function and all kernels, and the numbers that they read."""

    text: str
    data: bytearray
    layers: list[Unrolled]
    links: list[tuple[int, str]]  # offsets in the data at which the address of a block is expected


def program(plan: Plan, *, machine: Machine, shape: Shape, outputs: int, unroll: bool = False) -> Program:
    """The code of ``plan`` for images of ``shape`` and ``outputs`` numbers an image."""
    module = Module(machine)
    floats = f"<{machine.lanes} x float>"
    module.declare(f"{floats} @llvm.fmuladd.v{machine.lanes}f32({floats}, {floats}, {floats})")
    module.declare("void @llvm.memcpy.p0.p0.i64(ptr noalias writeonly, ptr noalias readonly, i64, i1)")
    layers, links = list[Unrolled](), list[tuple[int, str]]()
    names = [[_write(module, step, layers if unroll else None, links) for step in steps] for steps in (plan.first, plan.rest)]
    module.functions[ENTRY] = _entry(names[0], names[1], int(np.prod(shape)), outputs)
    return Program(module.text(), bytearray(b"".join(module.data.parts)), layers, links)


def _write(module: Module, step: Step, layers: list[Unrolled] | None, links: list[tuple[int, str]]) -> str:
    """Write the function of a step; its name."""
    f = Function(f"step{len(module.functions)}", moves.PARAMETERS)
    module.functions[f.name] = f
    if isinstance(step, Copy):
        moves.copy(f, step, module)
    elif isinstance(step, Pointwise):
        moves.pointwise(f, step, module)
    elif isinstance(step, Pooling):
        moves.pooling(f, step)
    else:
        _write_product(module, f, step, layers, links)
    return f.name


def _write_product(
    module: Module, f: Function, step: Product, layers: list[Unrolled] | None, links: list[tuple[int, str]]
) -> None:
    """A convolution: which kernel, and the numbers that it reads."""
    conv, lanes = step.conv, module.machine.lanes
    width = vector(step.out.pixels, lanes=lanes) if step.binary else lanes
    variant = bytes_.variant(step, vector=width) if step.binary else _variant(step)
    arrays = bytes_.numbers(step)
    outputs = conv.outputs
    if conv.signs is None:
        offsets, starts, weights, together = lists.blocks(step)
        arrays |= {"lists": offsets, "starts": starts, "weights": weights}
        name, outputs = f"real{together}{variant}", outputs // together
        write = partial(lists.kernel, lanes=lanes, relu=conv.relu, residual=step.residual is not None, together=together)
    elif layers is None:
        offsets, starts = lists.lists(step)
        arrays |= {"lists": offsets, "starts": starts}
        name = f"lists{variant}"
        write = partial(lists.kernel, lanes=lanes, relu=conv.relu, residual=step.residual is not None, together=0)
        if step.binary:
            write = partial(bytes_.kernel, step=step, vector=width)
    else:
        kind = f"<{width} x {'i8' if step.binary else 'float'}>"
        layer = unrolled.unrolled(step, f"block{len(layers)}", machine=module.machine, kind=kind)
        layers.append(layer)
        # numbers that no other table has: the loader puts the functions' addresses in their place
        table = np.arange(len(links), len(links) + len(layer.blocks), dtype=np.int64)
        links += [(module.data.size + 8 * i, block.name) for i, block in enumerate(layer.blocks)]
        arrays = {"lists": table, "starts": layer.starts} | arrays
        name = f"unrolled{variant}"
        write = partial(unrolled.kernel, machine=module.machine, relu=conv.relu, residual=step.residual is not None)
        if step.binary:
            write = partial(bytes_.unrolled_kernel, step=step, vector=width, sums=module.machine.sums)
    if name not in module.functions:
        module.functions[name] = write(name)
    lists.call(f, name, step, module.data, arrays, vector=width, outputs=outputs)


def _variant(step: Product) -> str:
    return f"{'_relu' if step.conv.relu else ''}{'_residual' if step.residual else ''}"


def _entry(first: Sequence[str], rest: Sequence[str], inputs: int, outputs: int) -> Function:
    f = Function(ENTRY, "ptr %images, ptr %logits, i64 %n, ptr %work, ptr %data", public=True)
    with f.loop("0", f.do(f"add i64 %n, {GROUP - 1}"), step=GROUP) as group:
        left = f.int("sub", "%n", group.index)
        size = f.do(f"select i1 {f.do(f'icmp slt i64 {left}, {GROUP}')}, i64 {left}, i64 {GROUP}")
        images = f.at("float", "%images", f.int("mul", group.index, inputs))
        logits = f.at("float", "%logits", f.int("mul", group.index, outputs))
        shared = f"ptr {images}, ptr %work, ptr {logits}, ptr %data"
        with f.loop(0, size) as image:
            after = f.int("add", image.index, 1)
            for name in first:
                f.say(f"call void @{name}({shared}, i64 {image.index}, i64 {after})")
        for name in rest:
            f.say(f"call void @{name}({shared}, i64 0, i64 {size})")
    return f
