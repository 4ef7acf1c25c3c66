"""Subset sums as layers: v and u uniform, each layer times a power of two, and masks (:mod:`mpt.theory.subset`).

Column j has a block of neurons with one inner weight v_h each, of which at least ``numbers`` have the sign of a piece.
So weight w_ij has the products u_ih v_h of its own row, and

    fewest      the smallest subset of at most four of all products of the block; else of the first ``numbers``
    closest     the closest subset of the first ``numbers``

A weight that misses takes four more products of its block, and four more, while the block has any. Only where all are
not enough the block, and with it the layer, is drawn again with more neurons.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count

import numpy as np
import torch

from mpt.search.initializers import random_weight
from mpt.theory import counting
from mpt.theory.build import Advance, Job
from mpt.theory.packing import as_rows, as_weight, real_layer
from mpt.theory.subset import FEW, MOST, closest, fewest
from mpt.ticket.layer import StoredLayer

PRECISE = 24  # numbers of a closest subset, which is then within about 1e-4 of the largest weight
MORE = 4  # numbers that a weight takes at a time when it misses
CHUNK = 2**21  # products that are solved at a time
SAMPLE = 1000  # weights that a scale is tried on
HALVINGS = 5  # scales that are tried


def first_numbers(weights: int, *, delta: float, keep: str) -> int:
    """Numbers of one sign that a weight starts with, at most ``MOST``.

    ``log2(N / delta) + 1``: below that, all numbers of some weight are likely to have the other sign. For the closest
    subset at least ``PRECISE``.
    """
    numbers = math.ceil(math.log2(weights / delta) + 1)
    return min(MOST, max(numbers, PRECISE) if keep == "closest" else numbers)


def widths(job: Job, *, numbers: int) -> list[int]:
    """The hidden width so that each column has ``numbers`` neurons for each piece."""
    each = job.failure / (2 * job.layer.weight.shape[1] * job.pieces)
    return [job.layer.weight.shape[1] * int(counting.least_trials(np.array(numbers), probability=0.5, failure=each))]


def grown(
    job: Job, width: int, advance: Advance, *, numbers: int, keep: str, check: Callable[[int], None]
) -> tuple[list[StoredLayer], int, int]:
    """The pair of layers, its hidden width, and the numbers that a weight started with.

    Args:
        job: the layer.
        width: the hidden width for ``numbers``.
        advance: told how many rows are solved, less than 0 where they are solved again.
        numbers: to start with.
        keep: ``fewest`` or ``closest``.
        check: told a larger hidden width before it is drawn.

    Raises:
        ValueError: some weight is not within the accuracy with ``MOST`` numbers.
    """
    while True:
        solved = list[int]()

        def told(rows: int, solved: list[int] = solved) -> None:
            solved.append(rows)
            advance(rows)

        found = pair(job, width, told, numbers=numbers, keep=keep)
        if not isinstance(found, float):
            return found, width, numbers
        advance(-sum(solved))
        if numbers == MOST:
            raise ValueError(
                f"accuracy={job.accuracy:g} is not reached with {MOST} numbers a weight (error {found:g} in "
                f"{job.name}): ask for a larger accuracy"
            )
        numbers = min(MOST, 2 * numbers)
        (width,) = widths(job, numbers=numbers)
        check(width)


def pair(job: Job, width: int, advance: Advance, *, numbers: int, keep: str) -> list[StoredLayer] | float:
    """The pair of layers, or the largest error of a weight if that exceeds the accuracy.

    The error is infinite where a column has fewer than ``numbers`` neurons of a sign.
    """
    values = job.values
    rows, columns = values.shape
    inner_shape, outer_shape = job.weight_shapes([width])
    block = width // columns
    v, u = (
        random_weight(
            torch.Size(shape), seed=job.seed, layer=job.part(at), init="kaiming_uniform", scale_fan="none", prune=0.0
        ).numpy()
        for at, shape in enumerate((inner_shape, outer_shape))
    )
    scales = powers_of_two(inner_shape, outer_shape, largest=reach_of(job, numbers=numbers, keep=keep))
    own = v.reshape(width, -1)[np.arange(width), np.arange(width) // block] * np.float32(scales[0])  # (width,)
    outer = as_rows(u, outer_shape) * np.float32(scales[1])
    del u, v
    mask = np.zeros(outer.shape, bool)
    for sign in (1, -1)[: job.pieces]:
        fits = own.reshape(columns, block) * sign > 0
        if (fits.sum(axis=1) < numbers).any():
            return math.inf
        first = np.argsort(~fits, axis=1, kind="stable")[:, :MOST]  # those of the sign come first
        at = first + np.arange(columns)[:, None] * block  # (columns, n)
        factors = np.where(np.take_along_axis(fits, first, axis=1), own[at], 0)
        step = max(1, CHUNK // at.size)
        for start in range(0, rows, step):
            some = slice(start, start + step)
            kept, error = solve(
                values[some], outer[some][:, at], factors, within=job.accuracy, numbers=numbers, keep=keep
            )
            if (largest := float(error.max())) > job.accuracy:
                return largest
            mask[some, at.ravel()] |= kept.reshape(len(kept), -1)
            advance(len(kept))
    used, inner_mask = mask.any(axis=0), np.zeros(inner_shape[:2], bool)
    inner_mask[used, (np.arange(width) // block)[used]] = True
    flat = as_weight(mask, outer_shape)
    return [
        real_layer(job.part(0), inner_shape, inner_mask.ravel(), own[used]),
        real_layer(job.part(1), outer_shape, flat, as_weight(outer, outer_shape)[flat]),
    ]


def solve(
    weights: np.ndarray, u: np.ndarray, v: np.ndarray, *, within: float, numbers: int, keep: str
) -> tuple[np.ndarray, np.ndarray]:
    """Subsets of the products ``u v`` for ``weights``, those that miss with more numbers than the others.

    Args:
        weights: (rows, columns).
        u: (rows, columns, n).
        v: (columns, n), 0 where a block has fewer than n neurons; the first ``numbers`` are not.
        within: largest error of a weight.
        numbers: that all weights start with.
        keep: ``fewest`` or ``closest``.

    Returns:
        mask (rows, columns, n), bool, and error (rows, columns).
    """
    products, most = u * v.astype(np.float64), u.shape[-1]
    if keep == "fewest":
        mask, error = fewest(weights, products, np.ones_like(products), within=within, largest=FEW)
    else:
        mask, error = np.zeros(products.shape, bool), np.full(weights.shape, np.inf)
    far = np.abs(weights) - within > np.where(np.sign(weights)[..., None] == np.sign(products), abs(products), 0).sum(2)
    for size in count(numbers, MORE):
        left = (error > within) & ~far
        size = min(size, most)
        if not left.any():
            break
        some, ones = products[left][:, None, :size], np.ones((int(left.sum()), 1, size))
        target = weights[left][:, None]
        found, errors = closest(target, some, ones) if keep == "closest" else fewest(target, some, ones, within=within)
        mask[left, :size], error[left] = found[:, 0], errors[:, 0]
        if size == most:
            break
    return mask & (v != 0), error


def reach_of(job: Job, *, numbers: int, keep: str) -> float:
    """The magnitude that products reach at least: the largest weight, or what keeps the fewest numbers of a sample.

    Smaller numbers hit small weights more often, and large weights take several of them.
    """
    values = np.abs(job.values).ravel()
    largest = float(values.max())
    if keep == "closest":
        return largest
    generator = np.random.default_rng(0)
    weights = generator.choice(values, SAMPLE)[:, None]
    u, v = generator.uniform(-1, 1, (SAMPLE, 1, numbers)), generator.uniform(0, largest, (SAMPLE, 1, numbers))
    kept = []
    for halving in range(HALVINGS):
        mask, error = fewest(weights, u / 2**halving, v, within=job.accuracy, largest=FEW)
        kept.append(int(mask.sum()) + 2 * FEW * int(np.isinf(error).sum()))
    return float(largest / 2 ** int(np.argmin(kept)))


def powers_of_two(inner: tuple[int, ...], outer: tuple[int, ...], *, largest: float) -> tuple[float, float]:
    """Scales of the two layers: inner weights reach at least 1, and products at least ``largest``."""
    reach = [math.sqrt(6 / math.prod(shape[1:])) for shape in (inner, outer)]  # of kaiming_uniform
    first = 2.0 ** math.ceil(-math.log2(reach[0]))
    return first, 2.0 ** math.ceil(math.log2(largest / (first * reach[0] * reach[1])))
