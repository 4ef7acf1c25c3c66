"""The gradient of the scores, a step of SGD or Adam and the count for the next threshold, of all layers in one pass.

    slope      d = dL/db w sign(s), and its variants             reads 12, or 10 where dL/db is bfloat16
    update     moments and scores, by :mod:`mpt.search.fast.updates`
                   of SGD                                        reads 4, writes 8
                   of Adam                                       reads 8, writes 12
    count      |s| above, below and in the layer's window

The count lets :mod:`mpt.search.fast.threshold` expect the next threshold, which is checked when it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mpt.search.fast import loops, native, threshold
from mpt.search.fast.updates import TRIALS, Update

TASK = 16_384  # scores that a thread moves before it looks for others
CANDIDATES = TASK // 8  # most scores of a task that are kept for the next threshold
VECTOR = 16  # torch computes what is left at the end of a tensor after vectors of up to 16 numbers in another way


class Layer(NamedTuple):
    """What moves the scores of a layer: all of one shape, and one order in memory."""

    grad: Tensor  # dL/db, float32 or bfloat16
    weight: Tensor
    scores: Tensor
    moments: tuple[Tensor, ...]  # as many as the update has
    magnitude: float  # of the factor sign(w); not used with the factor w


class Rule(NamedTuple):
    """What the layers of a call have in common."""

    update: Update
    signs_only: bool  # the factor of dL/db is +-magnitude, instead of w
    absolute: bool  # and times sign(s)


def fits(layer: Layer, kind: type[Update]) -> bool:
    """Whether :func:`descend` can move the scores of ``layer`` by an update of this ``kind``."""
    tensors, shape = (layer.grad, layer.weight, layer.scores, *layer.moments), layer.grad.shape
    if layer.grad.dtype not in (torch.float32, torch.bfloat16) or any(x.dtype != torch.float32 for x in tensors[1:]):
        return False
    if any(not x.is_cpu or x.shape != shape for x in tensors) or shape.numel() % VECTOR or shape.numel() == 0:
        return False
    if not loops.available() or not loops.have_one_order(tensors):
        return False
    return is_exact(kind)  # type: ignore[arg-type]  # a class is hashable


def descend(layers: Sequence[Layer], rule: Rule) -> None:
    """Move scores and moments of ``layers``, all of which fit, by a step with the gradient of ``rule``."""
    places = {layer.scores.data_ptr(): place for place, layer in enumerate(layers)}
    windows = [one for one in threshold.windows(list(places)) if one.absolute == rule.absolute]
    members = tuple(tuple(places[address] for address in one.addresses) for one in windows)
    plan = _plan(tuple(layer.scores.numel() for layer in layers), members)
    numbers = np.array([[layer.magnitude, math.inf, math.inf] for layer in layers], np.float32)
    for window, own in zip(windows, members, strict=True):
        numbers[[*own], 1:] = window.ends
    table, tasks = np.array([_row(layer) for layer in layers]), len(plan.tasks)
    spans = np.array([(one.kept, *span) for one, span in zip(windows, plan.spans, strict=True)], np.int64)
    counts, inside = np.empty((tasks, 3), np.int64), np.empty((tasks, CANDIDATES), np.float32)
    found = np.empty((len(windows), 2))
    written = [x.ctypes.data for x in (table, numbers, counts, inside)]
    of_windows = [x.ctypes.data for x in (spans, plan.order, found)]
    scalars = tasks, len(layers), CANDIDATES, len(windows)
    update = rule.signs_only, rule.absolute, *rule.update.numbers()
    native.call(_loop(), tasks, plan.address, *written, *scalars, *of_windows, 0, *update)
    for window, own, (within, value) in zip(windows, members, found.tolist(), strict=True):
        if within:
            n = sum(layers[place].scores.numel() for place in own)
            threshold.expect(window, value, inside=int(within), n=n)


class _Plan(NamedTuple):
    """The tasks of layers, (t, 3) int64, and which of them belong to a window."""

    tasks: np.ndarray
    address: int  # of the tasks
    order: np.ndarray  # the indices of tasks, one window after the other
    spans: list[tuple[int, int]]  # of each window, in order


@lru_cache(maxsize=8)
def _plan(sizes: tuple[int, ...], members: tuple[tuple[int, ...], ...]) -> _Plan:
    """The tasks of layers of these sizes, in windows of these places of layers."""
    some = [_tasks_of(place, size) for place, size in enumerate(sizes)]
    ends = np.cumsum([0, *map(len, some)]).tolist()
    parts = [[index for place in own for index in range(ends[place], ends[place + 1])] for own in members]
    bounds = np.cumsum([0, *map(len, parts)]).tolist()
    tasks, order = np.concatenate(some), np.array([index for part in parts for index in part], np.int64)
    return _Plan(tasks, tasks.ctypes.data, order, list(pairwise(bounds)))


def _row(layer: Layer) -> list[int]:
    moments = [x.data_ptr() for x in layer.moments]
    addresses = [x.data_ptr() for x in (layer.grad, layer.weight, layer.scores)]
    return [*addresses, *moments, *[0] * (2 - len(moments)), layer.grad.dtype == torch.bfloat16]


def _tasks_of(place: int, n: int) -> np.ndarray:
    starts = np.arange(0, n, TASK)
    return np.stack([np.full_like(starts, place), starts, np.minimum(starts + TASK, n)], axis=1)


@cache
def _loop() -> Callable[[int], None]:
    from mpt.search.fast import descent_loop

    return descent_loop.descend


@cache
def is_exact(kind: type[Update]) -> bool:
    """Whether torch's fused step gives the bits of :func:`descend` on this processor, tried on random numbers."""
    generator = torch.Generator().manual_seed(0)
    for update in TRIALS[kind]:
        grad, weight, scores = torch.randn(3, 64 * VECTOR, generator=generator)
        moments = tuple(torch.rand(len(kind.moments), 64 * VECTOR, generator=generator))
        expected, theirs = scores.clone(), tuple(x.clone() for x in moments)
        update.step_of_torch(expected, grad * weight, theirs)
        descend([Layer(grad, weight, scores, moments, 1.0)], Rule(update, signs_only=False, absolute=False))
        if not all(map(torch.equal, (scores, *moments), (expected, *theirs))):
            return False
    return True
