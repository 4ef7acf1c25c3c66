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
    windows = threshold.windows(list(places))
    numbers = np.array([[layer.magnitude, math.inf, math.inf] for layer in layers], np.float32)
    for window in windows:
        if window.absolute == rule.absolute:
            numbers[[places[address] for address in window.addresses], 1:] = window.ends
    tasks, starts = _tasks(tuple(layer.scores.numel() for layer in layers))
    table = np.array([_row(layer) for layer in layers])
    counts, inside = np.empty((len(tasks), 3), np.int64), np.empty((len(tasks), CANDIDATES), np.float32)
    arrays = [x.ctypes.data for x in (tasks, table, numbers, counts, inside)]
    scalars = len(tasks), len(layers), CANDIDATES, rule.signs_only, rule.absolute, *rule.update.numbers()
    native.call(_loop(), len(tasks), *arrays, *scalars)
    for window in windows:
        if window.absolute == rule.absolute:
            members = [places[address] for address in window.addresses]
            rows = np.concatenate([np.arange(starts[place], starts[place + 1]) for place in members])
            _count(window, counts[rows], inside, rows, n=sum(layers[place].scores.numel() for place in members))


def _row(layer: Layer) -> list[int]:
    moments = [x.data_ptr() for x in layer.moments]
    addresses = [x.data_ptr() for x in (layer.grad, layer.weight, layer.scores)]
    return [*addresses, *moments, *[0] * (2 - len(moments)), layer.grad.dtype == torch.bfloat16]


@lru_cache(maxsize=8)
def _tasks(sizes: tuple[int, ...]) -> tuple[np.ndarray, list[int]]:
    """The tasks of layers of these sizes, and the place of the first of each layer and of the end."""
    tasks = [_tasks_of(place, size) for place, size in enumerate(sizes)]
    return np.concatenate(tasks), [0, *np.cumsum([len(some) for some in tasks]).tolist()]


def _tasks_of(place: int, n: int) -> np.ndarray:
    starts = np.arange(0, n, TASK)
    return np.stack([np.full_like(starts, place), starts, np.minimum(starts + TASK, n)], axis=1)


def _count(window: threshold.Window, counts: np.ndarray, inside: np.ndarray, rows: np.ndarray, *, n: int) -> None:
    """Tell what the tasks of ``n`` scores counted, unless a score was NaN or a task had too many candidates.

    Args:
        window: of the scores.
        counts: of each task, (t, 3).
        inside: the candidates of all tasks; those of these are in its ``rows``, (t,).
    """
    above, below, within = counts.sum(axis=0).tolist()
    most = int(counts[:, 2].max())
    if above + below + within == n and most < CANDIDATES:
        candidates = inside[rows, :most][np.arange(most) < counts[:, 2:]]
        threshold.note_counts(window, above, candidates, n)


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
