"""Plans -> one module of LLVM IR and the numbers that it reads.

    void mpt_steps(const float *images, float *logits, long n, void *work, const void *data)

takes the images in groups: for each group the first steps image by image, then the rest for all of them. A group of one
image has a plan of its own, whose features lie next to each other instead of each in a vector. ``work`` has
:attr:`Program.work` bytes, zero at first, and belongs to one thread; ``data`` is :attr:`Program.data`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from mpt.engine import lanes as bytes_
from mpt.engine import lists, moves, offsets, pools, unrolled, unrolled_kernel
from mpt.engine.code import Function, Machine, Module
from mpt.engine.graph import Node
from mpt.engine.layout import GROUP, LINE, Copy, Pointwise, Pooling, Product, Step, vector
from mpt.engine.plan import plan
from mpt.engine.unrolled import Unrolled

ENTRY = "mpt_steps"
Numbers = dict[str, "np.ndarray | int"]


@dataclass(frozen=True)
class Program:
    """IR text of the entry function and all kernels, and what they read.

    Attributes:
        layers: the layers to unroll, see :mod:`mpt.engine.unrolled`.
        links: where in ``data`` address and size of which function are expected.
        work: bytes of memory that one thread needs.
    """

    text: str
    data: bytearray
    layers: list[Unrolled]
    links: list[tuple[int, str]]
    work: int

    def entries(self) -> list[tuple[int, str, int]]:
        """Where in the data, in order, address and size of which function are expected, and the size.

        The size is of what the caller fetches: nothing where the code itself fetches what follows.
        The follower of the last layer is no function: its entry stays zero.
        """
        sizes = {
            block.name: layer.size(block) * (layer.encoder is None) for layer in self.layers for block in layer.blocks
        }
        return [(offset, name, sizes[name]) for offset, name in sorted(self.links) if name in sizes]


def program(nodes: Sequence[Node], *, machine: Machine, unroll: bool = False, public: bool = True) -> Program:
    """The code of the operations ``nodes``; ``unroll`` writes out the products of all but single pixels.

    Not ``public``, the entry function is for callers in the same module.
    """
    plans = [plan(nodes, lanes=machine.lanes, padded=unroll)]
    if any(node.shape[1:] == (1, 1) for node in nodes) and not any(node.binary for node in nodes):
        plans.append(plan(nodes, lanes=machine.lanes, padded=unroll, single=True, start=plans[0].bytes))
    writer = _Writer(machine, unroll=unroll, memory=-(-sum(p.bytes for p in plans) // LINE) * LINE)
    names = [(writer.steps(p.first), writer.steps(p.rest)) for p in plans]
    writer.finish()
    module = writer.module
    module.functions[ENTRY] = _entry(names, math.prod(nodes[0].shape), math.prod(nodes[-1].shape), public=public)
    data = bytearray(b"".join(module.data.parts))
    return Program(module.text(), data, writer.layers, writer.links, writer.memory + writer.sums)


@dataclass
class _Kernel:
    """A kernel of products that steps share; ``sizes`` are as of :func:`mpt.engine.offsets.sizes`."""

    name: str
    write: Callable[..., None]
    sizes: set[int] = field(default_factory=set)


class _Writer:
    """Steps as calls of kernels, in a function for each part of a plan."""

    def __init__(self, machine: Machine, *, unroll: bool, memory: int) -> None:
        self.module, self.unroll = Module(machine), unroll
        self.memory, self.sums = memory, 0  # bytes of features, and of the sums behind them
        self.layers, self.links = list[Unrolled](), list[tuple[int, str]]()
        self.kernels: dict[tuple[object, ...], _Kernel] = {}
        self.numbers: dict[tuple[int, int, bytes], Numbers] = {}  # what each product reads, by convolution and offsets
        self.module.declare("void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        for lanes in (2**i for i in range(machine.lanes.bit_length() + 2)):
            floats = f"<{lanes} x float>"
            self.module.declare(f"{floats} @llvm.fmuladd.v{lanes}f32({floats}, {floats}, {floats})")

    def steps(self, steps: Sequence[Step]) -> str:
        """Write a function of steps, one after another; its name. One function costs LLVM less time than many."""
        f = Function(f"steps{len(self.module.functions)}", moves.PARAMETERS, plain=True)
        self.module.functions[f.name] = f
        for step in steps:
            if isinstance(step, Copy):
                moves.copy(f, step, self.module)
            elif isinstance(step, Pointwise):
                moves.pointwise(f, step, self.module)
            elif isinstance(step, Pooling):
                pools.pooling(f, step, self.module)
            else:
                self._product(f, step)
        return f.name

    def _product(self, f: Function, step: Product) -> None:
        """A convolution: which kernel, and the numbers that it reads."""
        conv, machine, outputs = step.conv, self.module.machine, step.conv.outputs
        options: dict[str, Any] = {"vector": width(step, machine)}
        write: Callable[..., None]
        if conv.signs is None:
            together = offsets.together(conv)
            name, numbers, write = "real", self._once(step, self._real), lists.kernel
            options["together"] = together
            outputs //= together
        elif not self.unroll or step.single:
            chunks = offsets.cut(step, width(step, machine))
            name, numbers = "lists", self._once(step, partial(self._lists, chunks=chunks), len(chunks))
            write = bytes_.kernel if step.binary else lists.kernel
            options |= {"signs": conv.threshold is not None} if step.binary else {"short": numbers["short"]}
        else:
            name, numbers, write = "unrolled", self._once(step, self._unrolled), unrolled_kernel.kernel
            if step.binary:
                write, options = bytes_.unrolled_kernel, options | {"signs": conv.threshold is not None}
            else:
                options |= {"tiles": numbers["tiles"], "band": numbers["band"], "fused": machine.fused}
                kept = unrolled_kernel.kept(sums=machine.sums, tiles=options["tiles"], band=options["band"])
                self.sums = max(self.sums, 4 * options["vector"] * kept)
            options |= {"sums": machine.sums}
        key = (name, step.binary, *sorted(options.items()))
        kernel = self.kernels.setdefault(key, _Kernel(f"{name}{len(self.kernels)}", partial(write, **options)))
        if write is lists.kernel:
            kernel.sizes |= offsets.sizes(step, options["vector"])
        own = {"vector": options["vector"], "outputs": outputs, "sums": self.memory}
        lists.call(f, kernel.name, step, self.module.data, numbers, **own)

    def finish(self) -> None:
        """Write the kernels of products, now that all numbers of tiles are known."""
        for kernel in self.kernels.values():
            f = self.module.functions[kernel.name] = Function(kernel.name, lists.PARAMETERS)
            kernel.write(f, **({"sizes": kernel.sizes} if kernel.sizes else {}))

    def _once(self, step: Product, make: Callable[[Product], Numbers], chunks: int = 0) -> Numbers:
        """The numbers of a product in the data: two plans share them."""
        key = id(step.conv), chunks, step.offsets.tobytes()
        if key not in self.numbers:
            made, data = {**bytes_.numbers(step), **make(step)}, self.module.data
            self.numbers[key] = {name: x if isinstance(x, int) else data.put(x) for name, x in made.items()}
        return self.numbers[key]

    def _real(self, step: Product) -> Numbers:
        return dict(zip(("lists", "starts", "weights"), offsets.blocks(step), strict=True))

    def _lists(self, step: Product, chunks: list[slice]) -> Numbers:
        made, starts, bits = offsets.lists(step, chunks)
        return {"lists": made, "starts": starts, "chunks": len(chunks), "short": made.itemsize == 2, "bits": bits}

    def _unrolled(self, step: Product) -> Numbers:
        kind = f"<{width(step, self.module.machine)} x {'i8' if step.binary else 'float'}>"
        layer = unrolled.unrolled(step, f"block{len(self.layers)}", machine=self.module.machine, kind=kind)
        self.layers.append(layer)
        table = self._table(layer, f"block{len(self.layers)}_0")
        return {"lists": table, "starts": layer.starts, "tiles": layer.tiles, "band": layer.band}

    def _table(self, layer: Unrolled, follower: str) -> int:
        """Room for (address, bytes) of each function of ``layer`` and of the first function of the next layer."""
        names = [*(block.name for block in layer.blocks), follower]
        start = self.module.data.reserve(16 * len(names))
        self.links += [(start + 16 * i, name) for i, name in enumerate(names)]
        return start


def width(step: Product, machine: Machine) -> int:
    """Entries of the vectors in which a product is computed: one, where a single image's features are."""
    if step.binary:
        return vector(step.out.pixels, lanes=machine.lanes)
    return min(machine.lanes, step.positions)


def _entry(plans: Sequence[tuple[str, str]], inputs: int, outputs: int, *, public: bool) -> Function:
    """The loop over groups of images; the second plan, if there is one, is for a group of one image."""
    f = Function(ENTRY, "ptr %images, ptr %logits, i64 %n, ptr %work, ptr %data", public=public, plain=True)
    with f.loop("0", "%n", step=GROUP, partial=True) as group:
        left = f.i64("sub", "%n", group.index)
        size = f.do(f"select i1 {f.do(f'icmp slt i64 {left}, {GROUP}')}, i64 {left}, i64 {GROUP}")
        images = f.at("float", "%images", f.i64("mul", group.index, inputs))
        logits = f.at("float", "%logits", f.i64("mul", group.index, outputs))
        shared = f"ptr {images}, ptr %work, ptr {logits}, ptr %data"
        single = f.do(f"icmp eq i64 {size}, 1") if len(plans) > 1 else "false"
        for (first, rest), chosen in zip(plans, (f.do(f"xor i1 {single}, true"), single), strict=False):
            with f.when(chosen):
                with f.loop(0, size) as image:
                    after = f.i64("add", image.index, 1)
                    f.say(f"call void @{first}({shared}, i64 {image.index}, i64 {after})")
                f.say(f"call void @{rest}({shared}, i64 0, i64 {size})")
    return f
