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
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mpt.search.fast import loops, threshold

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
    tensors = layer.grad, layer.weight, layer.scores, layer.momentum
    if layer.grad.dtype not in (torch.float32, torch.bfloat16) or any(x.dtype != torch.float32 for x in tensors[1:]):
        return False
    if any(not x.is_cpu or x.shape != layer.grad.shape for x in tensors) or layer.grad.numel() == 0:
        return False
    return loops.available() and layer.grad.numel() % VECTOR == 0 and _arrays(layer) is not None and is_exact()


def _arrays(layer: Layer) -> list[np.ndarray] | None:
    grad = layer.grad.view(torch.int16) if layer.grad.dtype == torch.bfloat16 else layer.grad
    return loops.in_one_order(grad, layer.weight, layer.scores, layer.momentum)


def descend(layers: Sequence[Layer], rule: Rule) -> None:
    """Move scores and momentum of ``layers``, all of which fit, by a step with the gradient of ``rule``."""
    found = [arrays for layer in layers if (arrays := _arrays(layer))]
    places = {arrays[2].ctypes.data: place for place, arrays in enumerate(found)}
    windows = threshold.windows(list(places))
    numbers = np.array([[layer.magnitude, math.inf, math.inf] for layer in layers], np.float32)
    for window in windows:
        if window.absolute == rule.absolute:
            numbers[[places[address] for address in window.addresses], 1:] = window.ends
    table = np.array([[x.ctypes.data for x in arrays] + [arrays[0].itemsize == 2] for arrays in found], np.int64)
    tasks = np.concatenate([_tasks(place, arrays[2].size) for place, arrays in enumerate(found)])
    counts, inside = np.empty((len(tasks), 3), np.int64), np.empty((len(tasks), CANDIDATES), np.float32)
    scalars = (-rule.lr, rule.momentum, rule.decay)
    rest = *map(np.float32, scalars), rule.nesterov, rule.signs_only, rule.absolute
    size = max(loops.PART // TASK, math.ceil(len(tasks) / loops.threads() / 4))
    parts = [slice(start, start + size) for start in range(0, len(tasks), size)]
    loops.side_by_side([(tasks[part], table, numbers, counts[part], inside[part], *rest) for part in parts], _loop())
    for window in windows:
        members = [places[address] for address in window.addresses]
        if window.absolute == rule.absolute:
            n = sum(layers[place].scores.numel() for place in members)
            _count(window, np.isin(tasks[:, 0], members), counts, inside, n)


def _tasks(place: int, n: int) -> np.ndarray:
    starts = np.arange(0, n, TASK)
    return np.stack([np.full_like(starts, place), starts, np.minimum(starts + TASK, n)], axis=1)


def _count(window: threshold.Window, own: np.ndarray, counts: np.ndarray, inside: np.ndarray, n: int) -> None:
    """Tell what the tasks ``own`` counted, unless a score was NaN or a task had too many candidates."""
    found = counts[own]
    if int(found.sum()) == n and int(found[:, 2].max()) < CANDIDATES:
        kept = [row[:count] for row, count in zip(inside[own], found[:, 2].tolist(), strict=True) if count]
        if kept:
            threshold.note_counts(window, int(found[:, 0].sum()), np.concatenate(kept), n)


@cache
def _loop() -> Callable[..., Any]:
    from mpt.search.fast import descent_loop

    return loops.compiled(descent_loop.descend)


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
