"""The random layers that stand for one layer of a target, as masks of what a seed draws.

Each form turns weights (rows, columns) into stored layers of a ticket: ``L.0``, ``L.2`` ... by their names in
:func:`mpt.backbones.expanded`. Only masks and one gain a layer are chosen: signs and magnitudes are those that the
seed draws for a layer of this name, as in every search.

    binary      B with gain 2 e, U with gain 1                                    mpt.theory.counting, pool
    doubling    B with gain 1, b layers with gain 1/2, U with gain g              mpt.theory.doubling
    real        v and u uniform, each layer times a power of two                  mpt.theory.subset
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from mpt.search.fast.loops import compiled
from mpt.search.initializers import random_weight
from mpt.theory import counting, doubling
from mpt.theory.packing import as_rows, as_weight, binary_layer, binary_outer, real_layer, signs
from mpt.theory.pool import pool_size, take
from mpt.theory.subset import MOST, closest, fewest
from mpt.theory.target import matrix, rows_of
from mpt.ticket.layer import StoredLayer

PRECISE = 24  # numbers of a closest subset, which is then within about 1e-4 of the largest weight
CHUNK = 2**23  # products that are solved at a time
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Job:
    """One layer of a target to construct.

    Attributes:
        name: of the layer.
        layer: of the target.
        accuracy: largest error of a weight.
        pieces: 2 where inputs may have any sign, 1 where they are never negative.
        failure: probability that this layer cannot be built.
        seed: of the random layers.
    """

    name: str
    layer: Any
    accuracy: float
    pieces: int
    failure: float
    seed: int

    @property
    def values(self) -> np.ndarray:
        """The weights, (rows places, columns), float64."""
        return rows_of(matrix(self.layer))

    def part(self, place: int) -> str:
        """Name of the random layer at ``place`` of the sequence."""
        return f"{self.name}.{2 * place}"

    def weight_shapes(self, widths: list[int]) -> list[tuple[int, ...]]:
        """Shapes of the random layers' weights."""
        shape = tuple(self.layer.weight.shape)
        inner = (1,) * (len(shape) - 2)
        sizes = [shape[1], *widths]
        shapes = [(after, before, *inner) for before, after in pairwise(sizes)]
        return [*shapes, (shape[0], sizes[-1], *shape[2:])]


def missing(job: Job, what: str) -> ValueError:
    """The error for a seed without the neurons that the construction needs, which happens with probability delta."""
    return ValueError(
        f"seed {job.seed} misses {what} of {job.name}, which is likely enough at this delta: take another seed or a "
        "smaller delta"
    )


# binary -----------------------------------------------------------------------------------------------------------


def binary_widths(job: Job) -> list[int]:
    """The hidden width of the counting construction: one pool for all weights of the layer."""
    return [pool_size(_counts(job), pieces=job.pieces, failure=job.failure)]


def _counts(job: Job) -> np.ndarray:
    return counting.counts_of(job.values, gain=float(counting.gain_of(job.accuracy)))


def binary(job: Job, widths: list[int], advance: Advance) -> list[StoredLayer]:
    """The pair of the counting construction."""
    values, (width,) = job.values, widths
    inner_shape, outer_shape = job.weight_shapes(widths)
    inner = signs(inner_shape, seed=job.seed, layer=job.part(0)).reshape(width, -1)
    outer = as_rows(signs(outer_shape, seed=job.seed, layer=job.part(1)), outer_shape)
    mask, owner = np.zeros((width, len(outer)), bool), np.zeros(width, np.int64)
    counts, positive, by_neuron = _counts(job), values > 0, np.ascontiguousarray(outer.T)
    if (column := compiled(take)(counts, positive, inner, by_neuron, mask, owner, job.pieces)) >= 0:
        raise missing(job, f"neurons for input {column}")
    advance(len(values))
    used, inner_mask = mask.any(axis=1), np.zeros(inner.shape, bool)
    inner_mask[used, owner[used]] = True
    gain = counting.gain_of(job.accuracy)
    return [
        binary_layer(job.part(0), inner_shape, inner_mask.ravel(), inner[inner_mask], gain),
        binary_outer(job.part(1), outer_shape, np.ascontiguousarray(mask.T), outer, np.float32(1)),
    ]


# doubling ---------------------------------------------------------------------------------------------------------


def doubling_plan(job: Job) -> doubling.Chain:
    """Sizes of the chain."""
    values = job.values
    rows, columns = values.shape
    largest = float(np.abs(values).max())
    return doubling.plan(
        accuracy=job.accuracy, largest=largest, signals=columns * job.pieces, rows=rows, failure=job.failure
    )


def doubling_widths(job: Job) -> list[int]:
    """The hidden widths of the chain."""
    return list(doubling_plan(job).widths)


def chain(job: Job, widths: list[int], advance: Advance) -> list[StoredLayer]:
    """The layers of the doubling construction."""
    sizes, values = doubling_plan(job), job.values
    shapes, columns = job.weight_shapes(widths), values.shape[1]
    inputs = np.concatenate([np.arange(columns), -2 - np.arange(columns)][: job.pieces])  # as doubling.fill reads them
    layers, held = list[StoredLayer](), np.empty((0, 0), np.int64)
    kept, hidden = list[np.ndarray](), list[np.ndarray]()  # masks and signs of the hidden layers
    for t, (shape, slots) in enumerate(zip(shapes[:-1], sizes.slots, strict=True)):
        positive = signs(shape, seed=job.seed, layer=job.part(t)).reshape(shape[:2])
        sources = doubling.sources(t, chain=sizes, held=held, inputs=inputs)
        taken = np.empty(slots, np.int64)
        if compiled(doubling.fill)(sources, positive, taken):
            raise missing(job, f"a neuron in hidden layer {t + 1}")
        mask = np.zeros(positive.shape, bool)
        for wanted in sources.T:
            used, entry = wanted != -1, np.where(wanted < -1, -2 - wanted, wanted)
            mask[taken[used], entry[used]] = True
        kept, hidden, held = [*kept, mask], [*hidden, positive], taken.reshape(-1, len(inputs))
    last = len(sizes.slots)
    outer = as_rows(signs(shapes[-1], seed=job.seed, layer=job.part(last)), shapes[-1])
    mask_outer = doubling.choose(values, outer, held, chain=sizes, pieces=job.pieces)
    if mask_outer is None:
        raise missing(job, "a sign of a digit")
    kept[-1][~mask_outer.any(axis=0)] = False
    for t, (mask, positive) in enumerate(zip(kept, hidden, strict=True)):
        gain = np.float32(1 if t == 0 else 0.5)
        layers.append(binary_layer(job.part(t), shapes[t], mask.ravel(), positive[mask], gain))
    advance(len(values))
    return [*layers, binary_outer(job.part(last), shapes[-1], mask_outer, outer, sizes.gain)]


# real -------------------------------------------------------------------------------------------------------------


def real_widths(job: Job, *, numbers: int) -> list[int]:
    """The hidden width so that each column has ``numbers`` neurons for each piece."""
    each = job.failure / (2 * job.layer.weight.shape[1] * job.pieces)
    return [job.layer.weight.shape[1] * int(counting.least_trials(np.array(numbers), probability=0.5, failure=each))]


def real(job: Job, widths: list[int], advance: Advance, *, numbers: int, keep: str) -> list[StoredLayer] | float:
    """The pair of the subset sums, or the largest error of a weight if that exceeds the accuracy.

    The error is infinite where a column has fewer than ``numbers`` neurons of a sign.
    """
    values = job.values
    (rows, columns), (width,) = values.shape, widths
    inner_shape, outer_shape = job.weight_shapes(widths)
    block = width // columns
    v, u = (
        random_weight(
            torch.Size(shape), seed=job.seed, layer=job.part(at), init="kaiming_uniform", scale_fan="none", prune=0.0
        ).numpy()
        for at, shape in enumerate((inner_shape, outer_shape))
    )
    scales = _scales(inner_shape, outer_shape, largest=float(np.abs(values).max()))
    own = v.reshape(width, -1)[np.arange(width), np.arange(width) // block] * np.float32(scales[0])  # (width,)
    outer = as_rows(u, outer_shape) * np.float32(scales[1])
    mask = np.zeros(outer.shape, bool)
    for sign in (1, -1)[: job.pieces]:
        place = _first_of_sign(own.reshape(columns, block) * sign, numbers)
        if place is None:
            return math.inf
        at = place + np.arange(columns)[:, None] * block  # (columns, numbers)
        step = max(1, CHUNK // at.size)
        for start in range(0, rows, step):
            some = slice(start, start + step)
            target, factors = values[some], np.broadcast_to(own[at], (len(values[some]), *at.shape))
            kept, error = (
                fewest(target, outer[some][:, at], factors, within=job.accuracy)
                if keep == "fewest"
                else closest(target, outer[some][:, at], factors)
            )
            if (largest := float(error.max())) > job.accuracy:
                return largest
            mask[some, at.ravel()] = kept.reshape(len(target), -1)
            advance(len(target))
    used, inner_mask = mask.any(axis=0), np.zeros(inner_shape[:2], bool)
    inner_mask[used, (np.arange(width) // block)[used]] = True
    flat = as_weight(mask, outer_shape)
    return [
        real_layer(job.part(0), inner_shape, inner_mask.ravel(), own[used]),
        real_layer(job.part(1), outer_shape, flat, as_weight(outer, outer_shape)[flat]),
    ]


def _scales(inner: tuple[int, ...], outer: tuple[int, ...], *, largest: float) -> tuple[float, float]:
    """Powers of two: inner weights reach at least 1, and products at least the largest weight."""
    reach = [math.sqrt(6 / math.prod(shape[1:])) for shape in (inner, outer)]  # of kaiming_uniform
    first = 2.0 ** math.ceil(-math.log2(reach[0]))
    return first, 2.0 ** math.ceil(math.log2(largest / (first * reach[0] * reach[1])))


def _first_of_sign(own: np.ndarray, numbers: int) -> np.ndarray | None:
    """Places of the first ``numbers`` positive entries of each row (columns, block); None if a row has fewer."""
    if ((own > 0).sum(axis=1) < numbers).any():
        return None
    return np.sort(np.argsort(own <= 0, axis=1, kind="stable")[:, :numbers], axis=1)


def first_numbers(weights: int, *, delta: float, keep: str) -> int:
    """Numbers of one sign that a weight starts with, at most ``MOST``.

    ``log2(N / delta) + 1``: below that, all numbers of some weight are likely to have the other sign. For the closest
    subset at least ``PRECISE``.
    """
    numbers = math.ceil(math.log2(weights / delta) + 1)
    return min(MOST, max(numbers, PRECISE) if keep == "closest" else numbers)
