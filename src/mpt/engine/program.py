"""A plan -> one module of LLVM IR and the numbers that it reads.

    void mpt_steps(const float *images, float *logits, long n, void *work, const void *data)

takes the images in groups: for each group the first steps image by image, then the rest for all of them. ``work`` has
``plan.bytes`` bytes, zero at first, and belongs to one thread; ``data`` is :attr:`Program.data`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    links: list[tuple[int, str]]  # where the data expects address and size of a function

    def link(self, address: Callable[[str], int]) -> None:
        """Write addresses and sizes of the unrolled functions into the data; a layer's last follower may be missing."""
        sizes = {block.name: layer.size(block) for layer in self.layers for block in layer.blocks}
        for offset, name in self.links:
            if name in sizes:
                self.data[offset : offset + 16] = np.array([address(name), sizes[name]], np.int64).tobytes()


def program(plan: Plan, *, machine: Machine, shape: Shape, outputs: int, unroll: bool = False) -> Program:
    """The code of ``plan`` for images of ``shape`` and ``outputs`` numbers an image."""
    module = Module(machine)
    module.declare("void @llvm.prefetch.p0(ptr, i32, i32, i32)")
    floats = f"<{machine.lanes} x float>"
    module.declare(f"{floats} @llvm.fmuladd.v{machine.lanes}f32({floats}, {floats}, {floats})")
    module.declare("void @llvm.memcpy.p0.p0.i64(ptr noalias writeonly, ptr noalias readonly, i64, i1)")
    layers, links = list[Unrolled](), list[tuple[int, str]]()
    names = [
        [_write(module, step, layers if unroll else None, links) for step in steps] for steps in (plan.first, plan.rest)
    ]
    module.functions[ENTRY] = _entry(names[0], names[1], int(np.prod(shape)), outputs)
    return Program(module.text(), bytearray(b"".join(module.data.parts)), layers, links)


def _write(module: Module, step: Step, layers: list[Unrolled] | None, links: list[tuple[int, str]]) -> str:
    """Write the function of a step; its name."""
    f = Function(f"step{len(module.functions)}", moves.PARAMETERS, plain=True)
    module.functions[f.name] = f
    if isinstance(step, Copy):
        moves.copy(f, step, module)
    elif isinstance(step, Pointwise):
        moves.pointwise(f, step, module)
    elif isinstance(step, Pooling):
        moves.pooling(f, step, module)
    else:
        _write_product(module, f, step, layers, links)
    return f.name


def _write_product(
    module: Module, f: Function, step: Product, layers: list[Unrolled] | None, links: list[tuple[int, str]]
) -> None:
    """A convolution: which kernel, and the numbers that it reads."""
    conv, lanes, outputs = step.conv, module.machine.lanes, step.conv.outputs
    width = vector(step.out.pixels, lanes=lanes) if step.binary else lanes
    ends = {"vector": width, "signs": conv.threshold is not None}
    variant = f"_{width}_{'signs' if ends['signs'] else 'real'}" if step.binary else ""
    numbers: dict[str, np.ndarray | int] = dict(bytes_.numbers(step))
    if conv.signs is None:
        offsets, starts, weights, together = lists.blocks(step)
        numbers |= {"lists": offsets, "starts": starts, "weights": weights}
        name, outputs = f"real{together}", outputs // together
        write = partial(lists.kernel, lanes=lanes, together=together)
    elif layers is None:
        offsets, starts = lists.lists(step)
        numbers |= {"lists": offsets, "starts": starts}
        name = f"lists{variant}"
        write = partial(bytes_.kernel, **ends) if step.binary else partial(lists.kernel, lanes=lanes, together=0)
    else:
        kind = f"<{width} x {'i8' if step.binary else 'float'}>"
        layer = unrolled.unrolled(step, f"block{len(layers)}", machine=module.machine, kind=kind)
        layers.append(layer)
        numbers |= {"lists": _table(module, layer, f"block{len(layers)}_0", links), "starts": layer.starts}
        name = f"unrolled{variant}"
        write = partial(unrolled.kernel, machine=module.machine)
        if step.binary:
            write = partial(bytes_.unrolled_kernel, sums=module.machine.sums, **ends)
    if name not in module.functions:
        module.functions[name] = write(name)
    lists.call(f, name, step, module.data, numbers, vector=width, outputs=outputs)


def _table(module: Module, layer: Unrolled, follower: str, links: list[tuple[int, str]]) -> int:
    """Room for (address, bytes) of each function of ``layer`` and of the first function of the next layer."""
    names = [*(block.name for block in layer.blocks), follower]
    start = module.data.reserve(16 * len(names))
    links += [(start + 16 * i, name) for i, name in enumerate(names)]
    return start


def _entry(first: Sequence[str], rest: Sequence[str], inputs: int, outputs: int) -> Function:
    f = Function(ENTRY, "ptr %images, ptr %logits, i64 %n, ptr %work, ptr %data", public=True, plain=True)
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
