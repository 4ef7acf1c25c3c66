"""What product kernels read: lists of offsets, where tiles begin, and how many of them a kernel takes at once.

A tile is one vector of output positions. The kernels are in :mod:`mpt.engine.lists` and :mod:`mpt.engine.lanes`.
"""

from __future__ import annotations

import numpy as np

from mpt.engine.graph import Conv
from mpt.engine.layout import GROUP, LINE, Product, fits

SUMS = 8  # sums at once of one kernel
CACHE = 36_000  # bytes of inputs that stay in a cache of 32 KiB, about
LEAST = 16  # weights of an output from which a chunk of its own pays
SHARED = 0.3  # fraction of weights kept from which several outputs share an offset


def cut(step: Product, vector: int) -> list[slice]:
    """Input channels of each chunk of the lists, so that what some tiles read stays in the innermost cache.

    A chunk has work of its own for each output, which pays from ``LEAST`` weights on.
    """
    conv, channels = step.conv, step.conv.weight.shape[1]
    if step.binary or step.single:
        return [slice(0, channels)]
    tiles = places(step, vector)[0]
    each = len(tiles) // (GROUP // step.out.buffer.interleaved)
    tiles = tiles[: min(SUMS, each) if step.alone else SUMS]
    lines = (step.offsets[:channels].reshape(-1, 1) + tiles) * 4 // LINE
    read = LINE * np.count_nonzero(np.bincount((lines - lines.min(initial=0)).ravel()))
    weights = conv.kept // conv.outputs
    many = max(1, min(-(-read // CACHE), weights // LEAST, channels))
    return [slice(channels * i // many, channels * (i + 1) // many) for i in range(many)]


def lists(step: Product, chunks: list[slice]) -> tuple[np.ndarray, np.ndarray, int]:
    """Offsets of all chunks, each by output; where the parts of each list start, [3 i] to [3 i + 3] of list i; a shift.

    The parts: plus and minus in turn, as long as there are both; more of plus; more of minus. In turn, because a sum
    of all plus would be large and lose digits before the minus take it back. Behind the starts comes the first offset
    of each chunk, from which its offsets count: in 16 bits, where these reach. All are to be shifted left by as many
    bits as they have zeros in common. Lists of bytes count from 0, one by one.
    """
    conv, outputs = step.conv, np.arange(step.conv.outputs)
    assert conv.signs is not None
    all_ = step.offsets.astype(np.int32).ravel()  # by group, input channel and tap
    bits = 0 if step.binary else int(np.bitwise_or.reduce(all_, initial=0))
    shift = max(0, (bits & -bits).bit_length() - 1)
    all_ >>= shift
    rows, taps = conv.signs.reshape(len(outputs), -1), conv.signs[0, 0].size
    groups = outputs // (len(outputs) // conv.groups) * rows.shape[1]  # where the offsets of each output's group begin
    counts, bases = np.empty((len(chunks), len(outputs), 2), np.int64), np.zeros(len(chunks), np.int32)
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for i, chunk in enumerate(chunks):
        part = rows[:, taps * chunk.start : taps * chunk.stop]
        starts = groups + taps * chunk.start - outputs * part.shape[1]
        places = np.flatnonzero(part != 0)  # of bool: much the fastest
        negative = part.ravel()[places] < 0
        for sign, some in enumerate((places[~negative], places[negative])):
            counts[i, :, sign] = np.diff(np.searchsorted(some, np.arange(len(outputs) + 1) * part.shape[1]))
            found[sign].append(all_[some + np.repeat(starts, counts[i, :, sign])])
        own = [found[0][i], found[1][i]]
        if not step.binary and any(map(len, own)):
            bases[i] = min(offsets.min() for offsets in own if len(offsets))
            for offsets in own:
                offsets -= bases[i]
    parts, where = _parts(counts.reshape(-1, 2))
    plus, minus = (np.concatenate(own) for own in found)
    most = max(plus.max(initial=0), minus.max(initial=0))
    made = np.empty(len(plus) + len(minus), np.uint16 if most < 2**16 and not step.binary else np.int32)
    made[where[0]], made[where[1]] = plus, minus
    return made, np.concatenate([parts, bases]).astype(np.int32), shift


def _parts(counts: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Where the parts of all lists start, (3 many + 1,), and the place of each plus and of each minus.

    ``counts``, (many, 2), says how many each list has of both.
    """
    pairs = counts.min(axis=1)
    more = counts - pairs[:, None]
    starts = np.concatenate([[0], np.cumsum(np.stack([2 * pairs, more[:, 0], more[:, 1]], axis=1))])
    places = list[np.ndarray]()
    for sign in range(2):  # of the k-th, over all lists: 2 k + a number of the list in pairs, k + a number behind them
        first = np.cumsum(counts[:, sign]) - counts[:, sign]
        runs = np.stack([pairs, more[:, sign]], axis=1).ravel()
        begins = np.stack([starts[:-1:3] + sign - 2 * first, starts[1::3] - first - pairs], axis=1)
        steps = np.repeat(np.tile(np.array([2, 1], np.int32), len(counts)), runs)
        places.append(steps * np.arange(len(steps), dtype=np.int32) + np.repeat(begins.astype(np.int32).ravel(), runs))
    return starts, places


def together(conv: Conv) -> int:
    """Outputs that share an offset where weights are real: several, if most of their inputs are the same."""
    if conv.kept < SHARED * conv.weight.size:
        return 1
    return next(n for n in (4, 2, 1) if conv.outputs // conv.groups % n == 0)


def blocks(step: Product) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a step with real weights: offsets, starts and weights of blocks of outputs."""
    conv = step.conv
    weight = conv.weight.reshape(conv.outputs // together(conv), together(conv), -1)  # (blocks, outputs, inputs)
    block, entry = np.nonzero(weight.any(axis=1))
    inputs = step.offsets.reshape(conv.groups, -1)
    offsets = inputs[block // (len(weight) // conv.groups), entry]
    starts = np.concatenate([[0], np.cumsum(np.bincount(block, minlength=len(weight)))]).astype(np.int32)
    return offsets.astype(np.int32), starts, weight[block, :, entry]


def places(step: Product, vector: int) -> list[np.ndarray]:
    """Where the tiles of a group of images begin, in input, output and residual; int32 (tiles,) each.

    The last tile of a row, or of an image whose rows vectors do not fit, ends with it: it shares entries with the one
    before where tiles do not fit evenly.
    """
    (_, height, width), b = step.out.shape, step.out.buffer.interleaved
    views = [(step.source, step.row), (step.out.buffer, step.out.row)]
    views += [(step.residual.buffer, step.residual.row)] if step.residual else []
    by_rows = fits(width, interleaved=b, lanes=vector)
    assert by_rows or all(row == width for _, row in views)
    rows, n = (height, width) if by_rows else (1, step.positions)
    starts = np.minimum(np.arange(-(-n // vector)) * vector, n - vector)
    groups = np.arange(GROUP // b)[:, None, None]
    found = [groups * buffer.stride + np.arange(rows)[:, None] * row + starts for buffer, row in views]
    return [tiles.ravel().astype(np.int32) for tiles in (*found, np.zeros_like(found[0]))[:3]]


def sizes(step: Product, vector: int) -> set[int]:
    """How many tiles at once the kernel of a step is for, so that together they make all numbers of tiles that occur.

    They are powers of two, up to ``SUMS``. A step of one image at a time has one number of tiles. In a group of images
    the number may be any multiple of one image's, and what is left over is rarely worth more than its smallest size.
    """
    most = SUMS if step.conv.signs is not None else SUMS // 2
    groups = GROUP // step.out.buffer.interleaved
    each = len(places(step, vector)[0]) // groups
    found, left = set[int](), each if step.alone else each * groups
    for size in (8, 4, 2, 1):
        if size <= min(most, left):
            found.add(size)
            left %= size
    return found if step.alone else found | {min(most, each & -each)}
