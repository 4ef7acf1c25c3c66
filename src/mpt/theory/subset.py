"""The random subset sum: the numbers, among random products, whose sum comes nearest to a weight.

    w  ~  sum of u_h v_h over the kept h         u of the outer, v of the inner random layer, n numbers a weight

``closest`` finds the best of all 2^n subsets. The subset sums of each half of the numbers are sorted by merging ``S``
and ``S + a`` for one number ``a`` after the other; two pointers then run over both lists (Horowitz & Sahni 1974). A
weight takes O(2^(n/2)) time and memory; weights that share their numbers sort once.

``fewest`` takes the fewest numbers whose sum is within an accuracy, and the best of these subsets: none, one by a scan,
two by two pointers on the sorted numbers, three and four by loops around those. If it needs more it takes the closest.

The public experiment of Pensia et al. 2020 took a commercial solver and 77,266 s for a network of 397,000 weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from mpt.search.fast.loops import compiled

MOST = 40  # numbers of a weight: 2^20 sums a half
PART = 64  # rows that a thread takes at a time


def closest(weights: np.ndarray, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The subset of the products ``u v`` whose sum is nearest to each weight.

    Args:
        weights: (rows, columns).
        u: (rows, n), shared by the weights of a row, or (rows, columns, n).
        v: as ``u``.

    Returns:
        mask (rows, columns, n), bool, and error (rows, columns), ``|sum - w|``, float64.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, or n above ``MOST``.
    """
    return _solve(weights, u, v, within=-1.0)


def fewest(weights: np.ndarray, u: np.ndarray, v: np.ndarray, *, within: float) -> tuple[np.ndarray, np.ndarray]:
    """The fewest products ``u v`` whose sum is within ``within`` of each weight; where none are, the closest subset.

    Subsets of one to four numbers are all tried; a subset of five or more is the closest, not the smallest, so that
    the result has the fewest numbers wherever four or less suffice. See :func:`closest` for shapes and errors.
    """
    if not 0 < within < math.inf:
        raise ValueError(f"within is the largest error of a weight and must be above 0 and finite, got {within}")
    return _solve(weights, u, v, within=within)


def _solve(weights: np.ndarray, u: np.ndarray, v: np.ndarray, *, within: float) -> tuple[np.ndarray, np.ndarray]:
    w, numbers = np.asarray(weights, np.float64), np.asarray(u, np.float64) * np.asarray(v, np.float64)
    rows, columns = w.shape
    own = numbers.ndim == 3
    if numbers.shape[:-1] != (w.shape if own else (rows,)):
        raise ValueError(
            f"u and v must be (rows, n) or (rows, columns, n) for weights {w.shape}, their product is {numbers.shape}"
        )
    n = numbers.shape[-1]
    if not 1 <= n <= MOST:
        raise ValueError(f"u and v must have from 1 to {MOST} numbers a weight, got {n}")
    if not (np.isfinite(w).all() and np.isfinite(numbers).all()):
        raise ValueError("weights, u and v must be finite, and some are not: a network that diverged has no ticket")
    w = np.ascontiguousarray(w.reshape(-1, 1) if own else w)
    numbers = np.ascontiguousarray(numbers.reshape(-1, n))
    mask, error = np.zeros((*w.shape, n), bool), np.empty(w.shape)
    run_in_parts(search_rows, w, numbers, mask, error, within)
    return mask.reshape(rows, columns, n), error.reshape(rows, columns)


def run_in_parts(
    loop: Callable[..., None],
    *arguments: np.ndarray | float,
    part: int = PART,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Run ``loop``, compiled, on parts of the first axis of all arrays among ``arguments``, on torch's threads.

    ``advance`` is told the number of rows of each finished part.
    """
    function = compiled(loop)
    arrays = [x for x in arguments if isinstance(x, np.ndarray)]

    def parts() -> Iterator[list[np.ndarray | float]]:
        for start in range(0, len(arrays[0]), part):
            yield [x[start : start + part] if isinstance(x, np.ndarray) else x for x in arguments]

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for start, _ in enumerate(pool.map(lambda some: function(*some), parts())):
            advance(min(part, len(arrays[0]) - part * start))


def search_rows(w: np.ndarray, numbers: np.ndarray, mask: np.ndarray, error: np.ndarray, within: float) -> None:
    """The loop: ``mask`` and ``error`` of weights (rows, columns) with numbers (rows, n); closest if ``within < 0``."""
    rows, columns = w.shape
    n = numbers.shape[1]
    half = n // 2
    sizes = (1 << half, 1 << (n - half))
    sums, codes, built = np.empty((2, sizes[1])), np.empty((2, sizes[1]), np.int64), False
    old_sums, old_codes = np.empty(sizes[1]), np.empty(sizes[1], np.int64)
    best, lefts, rights = np.empty(4, np.int64), sums[0], sums[1]
    for row in range(rows):
        p, built = numbers[row], False
        order = np.argsort(p)
        q = p[order]
        for column in range(columns):
            t = w[row, column]
            # the fewest numbers: sizes 0 to 4, best error of the first size that suffices
            found, size = False, 0
            if within >= 0 and abs(t) <= within:
                found = True
            if within >= 0 and not found:
                least = np.inf
                for i in range(n):
                    if abs(q[i] - t) < least:
                        least, best[0] = abs(q[i] - t), i
                if least <= within:
                    found, size = True, 1
            if within >= 0 and not found:
                least, low, high = np.inf, 0, n - 1
                while low < high:
                    s = q[low] + q[high] - t
                    if abs(s) < least:
                        least, best[0], best[1] = abs(s), low, high
                    if s < 0:
                        low += 1
                    else:
                        high -= 1
                if least <= within:
                    found, size = True, 2
            if within >= 0 and not found:
                least = np.inf
                for i in range(n - 2):
                    low, high = i + 1, n - 1
                    while low < high:
                        s = q[i] + q[low] + q[high] - t
                        if abs(s) < least:
                            least, best[0], best[1], best[2] = abs(s), i, low, high
                        if s < 0:
                            low += 1
                        else:
                            high -= 1
                if least <= within:
                    found, size = True, 3
            if within >= 0 and not found:
                least = np.inf
                for i in range(n - 3):
                    for j in range(i + 1, n - 2):
                        low, high, rest = j + 1, n - 1, q[i] + q[j] - t
                        while low < high:
                            s = rest + q[low] + q[high]
                            if abs(s) < least:
                                least, best[0], best[1], best[2], best[3] = abs(s), i, j, low, high
                            if s < 0:
                                low += 1
                            else:
                                high -= 1
                if least <= within:
                    found, size = True, 4
            if found:
                for i in range(size):
                    mask[row, column, order[best[i]]] = True
            else:
                if not built:  # the sorted sums of both halves
                    for part in range(2):
                        start, count = part * half, n - half if part else half
                        sums[part, 0], codes[part, 0], filled = 0.0, 0, 1
                        for k in range(count):
                            a = p[start + k]
                            for i in range(filled):
                                old_sums[i], old_codes[i] = sums[part, i], codes[part, i]
                            i, j = 0, 0
                            for place in range(2 * filled):
                                if j == filled or (i < filled and old_sums[i] <= old_sums[j] + a):
                                    sums[part, place], codes[part, place] = old_sums[i], old_codes[i]
                                    i += 1
                                else:
                                    sums[part, place] = old_sums[j] + a
                                    codes[part, place] = old_codes[j] | (1 << k)
                                    j += 1
                            filled *= 2
                    built = True
                i, j, least, first, second = 0, sizes[1] - 1, np.inf, 0, 0
                left, right = lefts[0] - t, rights[j]
                while True:
                    s = left + right
                    if abs(s) < least:
                        least, first, second = abs(s), i, j
                    if s < 0:
                        i += 1
                        if i == sizes[0]:
                            break
                        left = lefts[i] - t
                    else:
                        j -= 1
                        if j < 0:
                            break
                        right = rights[j]
                code, other = codes[0, first], codes[1, second]
                for k in range(half):
                    mask[row, column, k] = (code >> k) & 1
                for k in range(n - half):
                    mask[row, column, half + k] = (other >> k) & 1
            total = -t
            for k in range(n):
                if mask[row, column, k]:
                    total += p[k]
            error[row, column] = abs(total)
