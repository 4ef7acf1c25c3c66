"""The gradient of the scores, a step of SGD and the count for the next threshold, of all layers in one pass.

    slope      d = dL/db w sign(s), and its variants             reads 12, or 10 where dL/db is bfloat16
    decay      d = d + l s                                       l the weight decay
    momentum   v = u v + d                                       reads 4, writes 4
    step       s = s - r v, or s - r (d + u v) for nesterov      writes 4
    count      |s| above, below and in the layer's window

Every sum with a product but ``u v + d`` is a fused multiply-add, rounded once, as in torch's own kernels on processors
that have one; :func:`is_exact` tries whether this torch computes the same bits. The count
lets :mod:`mpt.search.fast.threshold` expect the next threshold, which is checked when it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mpt.search.fast import loops, native, threshold

TASK = 16_384  # scores that a thread moves before it looks for others
CANDIDATES = TASK // 8  # most scores of a task that are kept for the next threshold
VECTOR = 16  # torch computes what is left at the end of a tensor after vectors of up to 16 numbers in another way


class Layer(NamedTuple):
    """What moves the scores of a layer: all of one shape, and one order in memory."""

    grad: Tensor  # dL/db, float32 or bfloat16
    weight: Tensor
    scores: Tensor
    momentum: Tensor
    magnitude: float  # of the factor sign(w); not used with the factor w


class Rule(NamedTuple):
    """What the layers of a call have in common."""

    lr: float
    momentum: float
    decay: float
    nesterov: bool
    signs_only: bool  # the factor of dL/db is +-magnitude, instead of w
    absolute: bool  # and times sign(s)


def fits(layer: Layer) -> bool:
    """Whether :func:`descend` can move the scores of ``layer``."""
    tensors, shape = layer[:4], layer.grad.shape
    if layer.grad.dtype not in (torch.float32, torch.bfloat16) or any(x.dtype != torch.float32 for x in tensors[1:]):
        return False
    if any(not x.is_cpu or x.shape != shape for x in tensors) or shape.numel() % VECTOR or shape.numel() == 0:
        return False
    return loops.available() and loops.have_one_order(tensors) and is_exact()


def descend(layers: Sequence[Layer], rule: Rule) -> None:
    """Move scores and momentum of ``layers``, all of which fit, by a step with the gradient of ``rule``."""
    places = {layer.scores.data_ptr(): place for place, layer in enumerate(layers)}
    windows = threshold.windows(list(places))
    numbers = np.array([[layer.magnitude, math.inf, math.inf] for layer in layers], np.float32)
    for window in windows:
        if window.absolute == rule.absolute:
            numbers[[places[address] for address in window.addresses], 1:] = window.ends
    rows = [[*(x.data_ptr() for x in layer[:4]), layer.grad.dtype == torch.bfloat16] for layer in layers]
    table, (tasks, starts) = np.array(rows, np.int64), _tasks(tuple(layer.scores.numel() for layer in layers))
    counts, inside = np.empty((len(tasks), 3), np.int64), np.empty((len(tasks), CANDIDATES), np.float32)
    arrays = [x.ctypes.data for x in (tasks, table, numbers, counts, inside)]
    scalars = [native.bits(np.float32(x)) for x in (-rule.lr, rule.momentum, rule.decay)]
    kinds = rule.nesterov, rule.signs_only, rule.absolute
    native.call(_loop(), len(tasks), *arrays, len(tasks), len(layers), CANDIDATES, *scalars, *kinds)
    for window in windows:
        if window.absolute == rule.absolute:
            members = [places[address] for address in window.addresses]
            parts = [slice(starts[place], starts[place + 1]) for place in members]
            n = sum(layers[place].scores.numel() for place in members)
            _count(window, [counts[part] for part in parts], [inside[part] for part in parts], n)


@lru_cache(maxsize=8)
def _tasks(sizes: tuple[int, ...]) -> tuple[np.ndarray, list[int]]:
    """The tasks of layers of these sizes, and the place of the first of each layer and of the end."""
    tasks = [_tasks_of(place, size) for place, size in enumerate(sizes)]
    return np.concatenate(tasks), [0, *np.cumsum([len(some) for some in tasks]).tolist()]


def _tasks_of(place: int, n: int) -> np.ndarray:
    starts = np.arange(0, n, TASK)
    return np.stack([np.full_like(starts, place), starts, np.minimum(starts + TASK, n)], axis=1)


def _count(window: threshold.Window, counts: list[np.ndarray], inside: list[np.ndarray], n: int) -> None:
    """Tell what the tasks of some layers counted, unless a score was NaN or a task had too many candidates."""
    found = [row for part in counts for row in part.tolist()]
    above, below, within = (sum(row[i] for row in found) for i in range(3))
    if above + below + within == n and max(row[2] for row in found) < CANDIDATES:
        rows = (row for part in inside for row in part)
        if kept := [row[: counted[2]] for row, counted in zip(rows, found, strict=True) if counted[2]]:
            threshold.note_counts(window, above, np.concatenate(kept), n)


@cache
def _loop() -> Callable[[int], None]:
    from mpt.search.fast import descent_loop

    return descent_loop.descend


@cache
def is_exact() -> bool:
    """Whether torch's fused SGD gives the bits of :func:`descend` on this processor, tried on random numbers."""
    generator = torch.Generator().manual_seed(0)
    for nesterov, decay in product((False, True), (0.0, 0.01)):
        grad, weight, scores, momentum = torch.randn(4, 64 * VECTOR, generator=generator)
        expected, velocity = scores.clone(), momentum.clone()
        torch._fused_sgd_(
            [expected],
            [grad * weight],
            [velocity],
            lr=0.1,
            momentum=0.9,
            weight_decay=decay,
            nesterov=nesterov,
            dampening=0.0,
            maximize=False,
            is_first_step=False,
        )
        rule = Rule(0.1, 0.9, decay, nesterov, signs_only=False, absolute=False)
        descend([Layer(grad, weight, scores, momentum, 1.0)], rule)
        if not torch.equal(scores, expected) or not torch.equal(momentum, velocity):
            return False
    return True
