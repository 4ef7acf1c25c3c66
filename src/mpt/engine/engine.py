"""``mpt.compile``: a ticket as machine code for this processor."""

from __future__ import annotations

import ctypes
import queue
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

import mpt
from mpt.engine import code, unrolled
from mpt.engine.code import Library, Machine
from mpt.engine.fuse import fuse
from mpt.engine.graph import Node, Shape
from mpt.engine.layout import GROUP, Plan, plan
from mpt.engine.program import ENTRY, Program, program
from mpt.engine.trace import trace

if TYPE_CHECKING:
    from mpt.ticket.ticket import Ticket

Images = TypeVar("Images", np.ndarray, Tensor)


def operations(net: nn.Module, *, shape: Shape) -> list[Node]:
    return fuse(trace(net, shape=shape))


class Run:
    def __init__(self, nodes: list[Node], *, machine: Machine, threads: int, unroll: bool = False) -> None:
        self.shape, self.out_shape, self.threads = nodes[0].shape, nodes[-1].shape, threads
        self._plan = plan(nodes, lanes=machine.lanes)
        made = program(self._plan, machine=machine, shape=self.shape, outputs=int(np.prod(self.out_shape)), unroll=unroll)
        self._data = np.frombuffer(made.data, np.uint8)
        content = code.cached(made.text.encode(), machine, lambda: code.optimised(made.text, machine))
        self._library = Library([content, *unrolled.objects(made.layers, machine=machine)], machine)
        sizes = {block.name: layer.size(block) for layer in made.layers for block in layer.blocks}
        for offset, name in made.links:
            if name in sizes:
                self._data[offset : offset + 16].view(np.int64)[:] = self._library.address(name), sizes[name]
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._function = self._library.function(ENTRY, pointer, pointer, number, pointer, pointer)
        self._free: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def __call__(self, images):
        x = images.numpy() if isinstance(images, Tensor) else images
        x = np.ascontiguousarray(x)
        out = np.empty((len(x), int(np.prod(self.out_shape))), np.float32)
        n = len(x)
        each = -(-n // self.threads)
        parts = [slice(i, i + each) for i in range(0, n, each)] if n else []
        if len(parts) <= 1 or self._pool is None:
            for part in parts:
                self._part(x[part], out[part])
        else:
            list(self._pool.map(lambda part: self._part(x[part], out[part]), parts))
        return torch.from_numpy(out) if isinstance(images, Tensor) else out

    def _part(self, x, out):
        try:
            work = self._free.get_nowait()
        except queue.Empty:
            work = np.zeros(self._plan.bytes, np.uint8)
        start = work.ctypes.data + (-work.ctypes.data) % 64
        self._function(x.ctypes.data, out.ctypes.data, len(x), start, self._data.ctypes.data)
        self._free.put(work)
