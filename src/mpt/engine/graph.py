"""A network as a short list of operations on images: what the engine computes, without torch.

Every value is an image of shape (C, H, W); features are images of one pixel, (F, 1, 1), and a linear layer is a 1x1
convolution of them. The operations (``Node.kind``):

    input       the images                              pool       maximum or mean over windows
    conv        sum of weight * input, by group         add        a + b
    affine      scale[c] x + shift[c] (batch-norm)      flatten    (C, H, W) -> (C H W, 1, 1)
    relu        max(x, 0)                               concat     channels of several values, one after another
    sign        +1 where x >= 0, else -1                real       +1 and -1 of one byte each as float32
                                                        flip       +1 and -1, of some channels the other one

:mod:`mpt.engine.trace` makes the list from the network, :mod:`mpt.engine.fuse` shortens it, :mod:`mpt.engine.layout`
gives each value its place in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

Shape = tuple[int, int, int]
Windows = tuple[tuple[int, ...], ...]  # for each output row (or column), the input rows that it looks at


@dataclass(eq=False)
class Conv:
    """A convolution: ``weight`` (O, C / groups, kh, kw), and what happens to its sums when they are stored.

        out[o] = scale[o] sum + shift[o]  (+ residual)  (ReLU)                             float32
        out[o] = +1 where sum >= threshold[o], else -1; the other way round if flip[o]     one byte each

    Attributes:
        padding: rows of zeros above and below, columns left and right.
        signs: int8, -1, 0 or +1, where the weight is ``gain[o] * signs``: the gain is then part of ``scale``.
        threshold: int32 (O,), of a convolution on signs in front of a batch-norm and a sign.
    """

    weight: np.ndarray
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    scale: np.ndarray
    shift: np.ndarray
    signs: np.ndarray | None = None
    relu: bool = False
    threshold: np.ndarray | None = None
    flip: np.ndarray | None = None

    @property
    def outputs(self) -> int:
        return len(self.weight)

    @cached_property
    def kept(self) -> int:
        """Weights that are not zero."""
        return int(np.count_nonzero(self.weight))


@dataclass(frozen=True)
class Affine:
    """``scale[c] x + shift[c]``; ``norm`` is torch's own formula, (points, C) -> (points, C)."""

    scale: np.ndarray
    shift: np.ndarray
    norm: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Pool:
    """Windows of a pool: output (i, j) looks at input rows ``rows[i]`` and columns ``columns[j]``, all inside.

    A mean divides the sum by ``row_sizes[i] * column_sizes[j]``, which count padding where torch counts it.
    """

    kind: str  # "max" or "mean"
    rows: Windows
    columns: Windows
    row_sizes: tuple[int, ...]
    column_sizes: tuple[int, ...]


@dataclass(eq=False)
class Node:
    """One operation: its ``kind`` (the table above), its inputs, the shape of its output and its numbers.

    Attributes:
        name: of the layer, or of the operation in the trace; for messages.
        inputs: of a convolution, inputs[1] is the residual if there is one.
        relu: of affine and add: max(., 0) of the result.
        binary: the value is -1 and +1, one byte each.
    """

    kind: str
    name: str
    inputs: list[Node]
    shape: Shape
    conv: Conv | None = None
    affine: Affine | None = None
    pool: Pool | None = None
    flips: np.ndarray | None = None  # bool (C,), of kind flip
    relu: bool = False
    binary: bool = False


class Builder:
    """The nodes so far of a network whose input has ``shape``."""

    def __init__(self, shape: Shape) -> None:
        self.shape, self.nodes = shape, list[Node]()

    def add(self, node: Node) -> Node:
        self.nodes.append(node)
        return node


def used(nodes: list[Node], last: Node) -> list[Node]:
    """The input, and the nodes that ``last`` depends on, in order."""
    needed, todo = {id(nodes[0]), id(last)}, [last]
    while todo:
        for node in todo.pop().inputs:
            if id(node) not in needed:
                needed.add(id(node))
                todo.append(node)
    return [node for node in nodes if id(node) in needed]
