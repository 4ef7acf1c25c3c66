"""The random layers that stand for one layer of a target, as masks of what a seed draws.

Each form turns weights (rows, columns) into stored layers of a ticket: ``L.0``, ``L.2`` ... by their names in
:func:`mpt.backbones.expanded`. Only masks and one gain a layer are chosen: signs and magnitudes are those that the
seed draws for a layer of this name, as in every search.

    binary      B with gain 2 e, or 1.6 e if rounded for inputs, U with gain 1     mpt.theory.counting, pool, rounding
    doubling    B with gain 1, b layers with gain 1/2, U with gain g              mpt.theory.doubling
    real        v and u uniform, each layer times a power of two                  mpt.theory.real
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from mpt.search.fast.loops import compiled
from mpt.theory import counting, doubling
from mpt.theory.packing import as_rows, binary_layer, binary_outer, signs
from mpt.theory.pool import pool_size, take
from mpt.theory.rounding import SHARE, fitted
from mpt.theory.target import matrix, rows_of
from mpt.ticket.check import MAX_NUMBER
from mpt.ticket.layer import StoredLayer

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
        moment: second moment of the layer's inputs, which ``form="binary"`` is rounded for, or None.
        finer: how many times finer than the accuracy it is rounded then.
    """

    name: str
    layer: Any
    accuracy: float
    pieces: int
    failure: float
    seed: int
    moment: np.ndarray | None = None
    finer: float = 1.0

    @property
    def values(self) -> np.ndarray:
        """The weights, (rows places, columns), float64."""
        return rows_of(matrix(self.layer))

    @property
    def gain(self) -> np.float32:
        """Of the inner layer of the counting construction."""
        return counting.gain_of(self.accuracy * (1 if self.moment is None else SHARE / self.finer))

    @cached_property
    def counts(self) -> np.ndarray:
        """The weights in units of ``gain``, rounded, without signs: int64, as ``values``."""
        gain = float(self.gain)
        if self.moment is None:
            return counting.counts_of(self.values, gain=gain)
        values = matrix(self.layer)
        flat = values.reshape(len(values), -1)
        return rows_of(fitted(flat, self.moment, gain=gain, accuracy=self.accuracy / self.finer).reshape(values.shape))

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
    """The hidden width of the counting construction: one pool for all weights of the layer.

    A lower bound of it, at less expense, where that is more than a file describes.
    """
    least = int(job.counts.max(axis=0).sum()) * job.pieces
    if least > MAX_NUMBER:
        return [least]
    return [pool_size(job.counts, pieces=job.pieces, failure=job.failure)]


def binary(job: Job, widths: list[int], advance: Advance) -> list[StoredLayer]:
    """The pair of the counting construction."""
    values, (width,) = job.values, widths
    inner_shape, outer_shape = job.weight_shapes(widths)
    inner = signs(inner_shape, seed=job.seed, layer=job.part(0)).reshape(width, -1)
    outer = as_rows(signs(outer_shape, seed=job.seed, layer=job.part(1)), outer_shape)
    mask, owner = np.zeros((width, len(outer)), bool), np.zeros(width, np.int64)
    counts, positive, by_neuron = job.counts, values > 0, np.ascontiguousarray(outer.T)
    if (column := compiled(take)(counts, positive, inner, by_neuron, mask, owner, job.pieces)) >= 0:
        raise missing(job, f"neurons for input {column}")
    advance(len(values))
    used, inner_mask = mask.any(axis=1), np.zeros(inner.shape, bool)
    inner_mask[used, owner[used]] = True
    return [
        binary_layer(job.part(0), inner_shape, inner_mask.ravel(), inner[inner_mask], job.gain),
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
